//! A proxy, seen from the command that started it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::protocol::{Channel, FromProxy, Sender, ToProxy, fds};
use super::{ROLE_VARIABLE, Role};
use crate::error::Plain;
use crate::monitor_process;
use crate::preserved::Preserved;
use crate::process_id::{ProcessHandle, ProcessId};
use crate::sys::{self, Spawn, Streams};

/// How long a proxy that gave up may take to end its guest.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a proxy did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It could not be started or spoken to.
    #[error("cannot start the container's process on the host: {}", Plain(.0))]
    Start(#[from] io::Error),
    /// Its own sentence.
    #[error("{message}")]
    Failed {
        /// The sentence.
        message: String,
        /// The command's exit status.
        status: u8,
    },
    /// It ended without a word.
    #[error("the container's process on the host ended unexpectedly")]
    Gone,
}

/// What a proxy is started with.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// What it does.
    pub role: Role,
    /// The command line that `ps` shows.
    pub arguments: &'a [String],
    /// stdin, stdout and stderr.
    pub streams: Streams,
    /// The state directory.
    pub state: BorrowedFd<'a>,
    /// Its lock, where the proxy is to hold it too.
    pub lock: Option<BorrowedFd<'a>>,
    /// A socket that takes the terminal's master.
    pub console: Option<BorrowedFd<'a>>,
    /// More for the process.
    pub preserved: &'a [Preserved],
}

/// A proxy. Dropping this lets it go on; [`abort`](Self::abort) ends it.
#[derive(Debug)]
pub struct ProxyProcess {
    id: ProcessId,
    handle: Arc<ProcessHandle>,
    channel: Channel,
    sender: Sender,
}

impl ProxyProcess {
    /// Starts a proxy, which waits for its order.
    pub fn spawn(inputs: &Inputs<'_>) -> Result<Self, ProxyError> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut environment = monitor_process::environment();
        environment.push(CString::new(format!("{ROLE_VARIABLE}={}", inputs.role.word())).map_err(io::Error::from)?);
        let arguments: Result<Vec<_>, _> = inputs.arguments.iter().map(|text| CString::new(text.as_str())).collect();
        let mut arguments = arguments.map_err(io::Error::from)?;
        if arguments.is_empty() {
            arguments.push(c"sandbox".into());
        }
        let mut descriptors: Vec<(BorrowedFd<'_>, RawFd)> =
            vec![(theirs.as_fd(), fds::COMMAND), (inputs.state, fds::STATE)];
        descriptors.push((inputs.lock.unwrap_or(inputs.state), fds::LOCK));
        descriptors.extend(inputs.console.map(|console| (console, fds::CONSOLE)));
        descriptors.extend(inputs.preserved.iter().zip(fds::PRESERVED..).map(|(one, number)| (one.fd.as_fd(), number)));
        let pid = sys::spawn(&Spawn {
            path: c"/proc/self/exe",
            arguments: &arguments,
            environment: &environment,
            streams: inputs.streams,
            descriptors: &descriptors,
        })?;
        drop(theirs);
        // A child that nobody has waited for keeps its number.
        let found = ProcessId::of(pid).and_then(|id| Some((id, id.open()?)));
        let Some((id, handle)) = found else { return Err(ProxyError::Gone) };
        let channel = Channel::new(ours);
        let sender = channel.sender()?;
        Ok(Self { id, handle: Arc::new(handle), channel, sender })
    }

    /// Which process it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What can be signalled and waited for, from another thread maybe.
    pub fn handle(&self) -> Arc<ProcessHandle> {
        self.handle.clone()
    }

    /// Tells it something.
    pub fn tell(&mut self, message: &ToProxy) -> Result<(), ProxyError> {
        // One that is gone has left a better reason than a broken pipe.
        self.sender.send(message).or_else(|_| self.expect(&FromProxy::Ready))
    }

    /// Waits for what it says next, but for warnings, which are passed on; what it says instead is an error.
    pub fn listen(&mut self) -> Result<FromProxy, ProxyError> {
        loop {
            return match self.channel.receive() {
                Ok(Some(FromProxy::Warning { message })) => {
                    log::warn!("{message}");
                    continue;
                }
                Ok(Some(FromProxy::Failed { message, status })) => Err(ProxyError::Failed { message, status }),
                Ok(Some(said)) => Ok(said),
                Ok(None) => Err(ProxyError::Gone),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(ProxyError::Gone),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Waits for this.
    pub fn expect(&mut self, what: &FromProxy) -> Result<(), ProxyError> {
        if self.listen()? == *what { Ok(()) } else { Err(ProxyError::Gone) }
    }

    /// Ends it, and its monitor with it.
    pub fn abort(self) {
        let Self { id, handle, channel, sender } = self;
        drop((channel, sender));
        if !handle.wait(END_TIMEOUT) {
            handle.kill();
        }
        reap(id.pid);
    }

    /// Waits for its end; gives the exit status, 128 and the signal's number for a death by signal, and the sentence that it left.
    pub fn wait(mut self) -> (u8, Option<String>) {
        // The socket's end comes with the process's.
        let sentence = loop {
            match self.listen() {
                Err(ProxyError::Failed { message, .. }) => break Some(message),
                Err(_) => break None,
                Ok(_) => {}
            }
        };
        (reap(self.id.pid), sentence)
    }
}

/// Waits for a child's end.
fn reap(pid: i32) -> u8 {
    let Some(pid) = Pid::from_raw(pid) else { return 1 };
    match retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())) {
        Ok(Some((_, status))) => {
            let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        }
        _ => 1,
    }
}
