//! A command that waits for a process's end: the signals that it gets, and its terminal, are the process's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::CommandError;
use super::handover::Handover;
use crate::console;
use crate::process_id::ProcessHandle;
use crate::proxy::protocol::Size;
use crate::signals::Signals;
use crate::stdio;
use crate::terminal::{Raw, Terminal};

/// How long the last output of a terminal may take once its other end is closed.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// The command's side.
pub(super) struct Foreground {
    signals: Option<Signals>,
    terminal: Option<Terminal>,
    resized: Arc<Mutex<Option<Resized>>>,
}

/// The terminal whose size is followed, and the one that follows.
struct Resized(Terminal, OwnedFd);

impl Resized {
    fn follow(&self) {
        if let Some(size) = self.0.window() {
            let _ = console::set_size(self.1.as_fd(), size);
        }
    }
}

impl Foreground {
    /// Holds signals back until there is a process that they are for.
    pub fn new() -> Result<Self, CommandError> {
        let signals = Signals::hold().map_err(CommandError::io("hold signals back"))?;
        Ok(Self { signals: Some(signals), terminal: None, resized: Arc::default() })
    }

    /// Where the master of the process's terminal comes from, and where the proxy sends it: this command takes it for its own
    /// terminal unless a socket is named.
    pub fn console(
        &mut self,
        handover: &Handover,
        terminal: bool,
    ) -> Result<(Option<UnixStream>, Option<OwnedFd>), CommandError> {
        if !terminal || handover.console_socket.is_some() {
            return Ok((None, handover.console(terminal)?));
        }
        self.terminal = Some(Terminal::find()?);
        let (ours, theirs) = UnixStream::pair().map_err(CommandError::io("make a socket pair"))?;
        Ok((Some(ours), Some(theirs.into())))
    }

    /// Of the command's terminal, if the process gets it.
    pub fn size(&self) -> Option<Size> {
        self.terminal.as_ref().and_then(Terminal::window)
    }

    /// Passes signals on to the proxy from now on.
    pub fn forward(&mut self, proxy: Arc<ProcessHandle>) -> Result<(), CommandError> {
        let Some(signals) = self.signals.take() else { return Ok(()) };
        let resized = self.resized.clone();
        let handle = move |signal| match (signal, &*resized.lock().unwrap_or_else(PoisonError::into_inner)) {
            (libc::SIGWINCH, Some(resized)) => resized.follow(),
            _ => proxy.signal(signal),
        };
        signals.listen(handle).map_err(CommandError::io("listen for signals"))
    }

    /// Carries the process's terminal to the command's, if there is one.
    pub fn carry(&mut self, console: Option<UnixStream>) -> Result<Option<Carried>, CommandError> {
        let (Some(console), Some(terminal)) = (console, self.terminal.take()) else { return Ok(None) };
        let setup = CommandError::io("carry the container's terminal");
        let receive = || {
            let master = console::receive(console.as_fd())?;
            Ok((master.try_clone()?, master))
        };
        let (master, resize) = receive().map_err(setup)?;
        let raw = terminal.make_raw()?;
        let ended = Carried::start(&master).map_err(CommandError::io("carry the container's terminal"))?;
        let resized = Resized(terminal, resize.into());
        // It may have changed since the container was asked for.
        resized.follow();
        *self.resized.lock().unwrap_or_else(PoisonError::into_inner) = Some(resized);
        Ok(Some(Carried { ended, _raw: raw }))
    }
}

/// A process's terminal on the command's, which is raw meanwhile.
pub(super) struct Carried {
    ended: Receiver<()>,
    _raw: Raw,
}

impl Carried {
    fn start(master: &File) -> io::Result<Receiver<()>> {
        let (input, output) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
        let (to, from) = (master.try_clone()?, master.try_clone()?);
        let (sender, ended) = mpsc::channel();
        thread::Builder::new().name("terminal input".to_string()).spawn(move || {
            let _ = stdio::copy(input.as_fd(), to.as_fd(), None, None, || {});
        })?;
        thread::Builder::new().name("terminal output".to_string()).spawn(move || {
            // Ends with an error when the last slave is closed.
            let _ = stdio::copy(from.as_fd(), output.as_fd(), None, None, || {});
            drop(sender);
        })?;
        Ok(ended)
    }

    /// Shows what is left, and makes the command's terminal what it was.
    pub fn finish(self) {
        let _ = self.ended.recv_timeout(LAST_OUTPUT);
    }
}
