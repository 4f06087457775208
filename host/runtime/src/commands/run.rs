//! `sandbox run`: create, start, wait, delete.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::create::{Attached, Made, Options, make, make_of};
use super::{CommandError, start};
use crate::bundle::Bundle;
use crate::console;
use crate::proxy::process::{ProxyError, ProxyProcess};
use crate::proxy::protocol::{FromProxy, ToProxy};
use crate::signals::Signals;
use crate::state::{ContainerId, Status};
use crate::stdio;
use crate::sys::now_ns;
use crate::terminal::{Raw, Terminal};

/// How long the last output of a terminal may take once its other end is closed.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// Creates a container and starts it, without waiting for its end.
pub fn detached(options: &Options) -> Result<(), CommandError> {
    let mut made = make(options, None)?;
    made.proxy.tell(&ToProxy::Detach)?;
    // Others may want it; this command is the first that locks it again.
    drop(made);
    start::start(&options.root, &options.id)
}

/// Runs a container to its end. Returns its exit status, 128 and the number for a death by signal.
pub fn attached(options: &Options, keep: bool) -> Result<u8, CommandError> {
    let reading = now_ns();
    let id = ContainerId::new(&options.id)?;
    let bundle = Bundle::load(&options.bundle)?;
    let own = bundle.wants_terminal() && options.console_socket.is_none();
    let terminal = own.then(Terminal::find).transpose()?;
    // What comes before there is a process to send them to is kept until there is.
    let mut signals = Some(Signals::hold().map_err(CommandError::io("hold signals back"))?);
    let resized: Arc<std::sync::Mutex<Option<(Terminal, OwnedFd)>>> = Arc::default();
    let sizes = resized.clone();
    let mut started = move |proxy: &ProxyProcess| {
        let (process, sizes) = (proxy.handle(), sizes.clone());
        let handle = move |signal| match (signal, &*sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            (libc::SIGWINCH, Some((terminal, master))) => follow_size(terminal, master),
            _ => process.signal(signal),
        };
        signals.take().map_or(Ok(()), |signals| signals.listen(handle)).map_err(CommandError::io("listen for signals"))
    };
    let attached = Attached { terminal: terminal.clone(), started: &mut started };
    let made = make_of(options, &id, &bundle, Some(attached), reading)?;
    let Made { mut state, mut record, mut proxy, console } = made;
    let result = (|| {
        let carried = match (console, terminal) {
            (Some(console), Some(terminal)) => {
                let carried = Carried::start(&console.into(), &terminal)?;
                let master = carried.master.try_clone().map_err(CommandError::io("duplicate the terminal"))?;
                // It may have changed since the container was asked for.
                follow_size(
                    &terminal,
                    &master.as_fd().try_clone_to_owned().map_err(CommandError::io("duplicate the terminal"))?,
                );
                *resized.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((terminal, master.into()));
                Some(carried)
            }
            _ => None,
        };
        proxy.tell(&ToProxy::Start)?;
        proxy.expect(&FromProxy::Started)?;
        record.status = Status::Running;
        state.write(&record)?;
        state.unlock();
        Ok(carried)
    })();
    let carried = match result {
        Ok(carried) => carried,
        Err(error) => {
            proxy.abort();
            state.remove()?;
            return Err(error);
        }
    };
    let (status, sentence) = proxy.wait();
    if let Some(carried) = carried {
        carried.finish();
    }
    if !keep {
        state.lock()?;
        state.remove()?;
    }
    match sentence {
        Some(message) => Err(ProxyError::Failed { message, status: 1 }.into()),
        None => Ok(status),
    }
}

fn follow_size(terminal: &Terminal, master: &OwnedFd) {
    if let Some(size) = terminal.window() {
        let _ = console::set_size(master.as_fd(), size);
    }
}

/// The container's terminal on the caller's.
struct Carried {
    master: File,
    ended: mpsc::Receiver<()>,
    _raw: Raw,
}

impl Carried {
    fn start(console: &OwnedFd, terminal: &Terminal) -> Result<Self, CommandError> {
        let setup = CommandError::io;
        let master = console::receive(console.as_fd()).map_err(setup("take the container's terminal"))?;
        let raw = terminal.make_raw()?;
        let (input, output) = (io::stdin(), io::stdout());
        let copies = || -> io::Result<_> {
            let (input, output) = (input.as_fd().try_clone_to_owned()?, output.as_fd().try_clone_to_owned()?);
            let (to, from) = (master.try_clone()?, master.try_clone()?);
            let (sender, ended) = mpsc::channel();
            thread::Builder::new().name("terminal input".to_string()).spawn(move || {
                let _ = stdio::copy(input.as_fd(), to.as_fd(), None, None, || {});
            })?;
            thread::Builder::new().name("terminal output".to_string()).spawn(move || {
                let _ = stdio::copy(from.as_fd(), output.as_fd(), None, None, || {});
                drop(sender);
            })?;
            Ok(ended)
        };
        let ended = copies().map_err(setup("carry the container's terminal"))?;
        Ok(Self { master, ended, _raw: raw })
    }

    /// Shows what is left, and makes the caller's terminal what it was.
    fn finish(self) {
        let _ = self.ended.recv_timeout(LAST_OUTPUT);
    }
}
