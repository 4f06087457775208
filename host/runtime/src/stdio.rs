//! Carries stdin, stdout and stderr (or a terminal) between the host and a process in the guest: one thread and one connection each.

use std::fs::OpenOptions;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::agent::{PreservedDescriptor, Stdio};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{SpliceFlags, splice};

use crate::guest::ConnectError;
use crate::preserved::{Direction, Preserved};
use crate::sys::random_token;

/// Read and written at once where splice(2) is not possible.
const BUFFER: usize = 256 << 10;
/// Moved at once by splice(2); a pipe holds less, so that this is no limit.
const SPLICE: usize = 1 << 20;

/// How long a guest that has said all its output was sent may keep a stream open and silent.
const SILENCE: Duration = Duration::from_secs(5);

/// The output directions that still run.
#[derive(Clone, Debug, Default)]
pub struct Outputs(Arc<(Mutex<Left>, Condvar)>);

#[derive(Debug, Default)]
struct Left {
    /// Of each direction that runs: whether it waits for the guest (else for a reader on the host), and how often it has changed.
    running: Vec<Arc<Activity>>,
    abandoned: bool,
}

/// What a direction does just now.
#[derive(Debug, Default)]
pub struct Activity {
    /// Odd while it waits for the guest. Grows with each change.
    turns: AtomicU64,
}

impl Activity {
    fn waits_for_guest(&self, waits: bool) {
        let odd = self.turns.load(Ordering::Relaxed) % 2 == 1;
        self.turns.fetch_add(if odd == waits { 2 } else { 1 }, Ordering::Relaxed);
    }
}

impl Outputs {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Left)) {
        change(&mut self.left());
        self.0.1.notify_all();
    }

    /// Waits, after the guest has said that all was sent, until all output was written, or somebody calls
    /// [`abandon`](Self::abandon). A reader on the host may take its time; a guest that keeps a stream open and is silent may not.
    pub fn wait(&self) {
        let unfinished = |left: &mut Left| !left.running.is_empty() && !left.abandoned;
        let mut before = Vec::new();
        loop {
            let waited = self.0.1.wait_timeout_while(self.left(), SILENCE, unfinished);
            let (left, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() {
                return;
            }
            let now: Vec<u64> = left.running.iter().map(|activity| activity.turns.load(Ordering::Relaxed)).collect();
            if now == before && now.iter().all(|turns| turns % 2 == 1) {
                return;
            }
            before = now;
        }
    }

    /// Waits for the same, but not longer than `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) {
        let unfinished = |left: &mut Left| !left.running.is_empty() && !left.abandoned;
        let _ = self.0.1.wait_timeout_while(self.left(), timeout, unfinished);
    }

    /// Ends [`wait`](Self::wait) although output is left.
    pub fn abandon(&self) {
        self.change(|left| left.abandoned = true);
    }
}

/// Counts one output direction until it is dropped.
struct Running(Outputs, Arc<Activity>);

impl Running {
    fn new(outputs: &Outputs) -> Self {
        let activity = Arc::new(Activity::default());
        outputs.change(|left| left.running.push(activity.clone()));
        Self(outputs.clone(), activity)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|left| left.running.retain(|activity| !Arc::ptr_eq(activity, &self.1)));
    }
}

/// Starts what carries a process's streams: one for both directions with a `terminal`, else this process's own stdin, stdout and
/// stderr; and what is `preserved`. `connect` makes the connection of a token and blocks until the guest is there, on a thread of its
/// own. `first_output` is called when the process has written for the first time (or more often).
pub fn start(
    terminal: Option<OwnedFd>,
    preserved: Vec<Preserved>,
    connect: impl Connect,
    first_output: impl Fn() + Clone + Send + 'static,
) -> io::Result<(Stdio, Outputs)> {
    let outputs = Outputs::default();
    let mut stdio = Stdio::default();
    for Preserved { place, fd } in preserved {
        let token = match place.direction {
            Direction::Null => 0,
            Direction::Input => carry_input("input", fd, &connect)?,
            Direction::Output => carry_output("output", fd, &connect, &outputs, || {})?,
            Direction::Both => carry_socket(fd, &connect, &outputs)?,
        };
        let direction = place.direction.of_agent().into();
        let number = place.number.unsigned_abs();
        stdio.preserved.push(PreservedDescriptor { number, token, direction, ..Default::default() });
    }
    if let Some(terminal) = terminal {
        stdio.terminal_token = random_token()?;
        let token = stdio.terminal_token;
        let output = terminal.try_clone()?;
        let running = Running::new(&outputs);
        spawn("terminal", move || {
            carry_terminal(connect_nonblocking(&connect, token), terminal, &output, first_output, running)
        })?;
        return Ok((stdio, outputs));
    }
    if let Some(input) = unless_null(io::stdin().as_fd())? {
        stdio.stdin_token = carry_input("stdin", input, &connect)?;
    }
    if let Some(output) = unless_null(io::stdout().as_fd())? {
        stdio.stdout_token = carry_output("stdout", output, &connect, &outputs, first_output.clone())?;
    }
    if let Some(output) = unless_null(io::stderr().as_fd())? {
        stdio.stderr_token = carry_output("stderr", output, &connect, &outputs, first_output)?;
    }
    Ok((stdio, outputs))
}

/// Lets go of this process's own stdin, stdout and stderr, of which [`start`] has duplicates: when the container's process closes its
/// end, whoever is at the other end here is to see that.
pub fn let_go() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// What makes the connection of a token.
pub trait Connect: Fn(u64) -> Result<UnixStream, ConnectError> + Clone + Send + 'static {}

impl<T: Fn(u64) -> Result<UnixStream, ConnectError> + Clone + Send + 'static> Connect for T {}

/// To the process, until there is no more or the process wants no more. Returns the stream's token.
fn carry_input(name: &str, input: OwnedFd, connect: &impl Connect) -> io::Result<u64> {
    let (token, connect) = (random_token()?, connect.clone());
    spawn(name, move || {
        let Ok(stream) = connect_nonblocking(&connect, token) else { return };
        let _ = copy(input.as_fd(), stream.as_fd(), Some(stream.as_fd()), None, || {});
        drop(input);
        let _ = stream.shutdown(Shutdown::Write);
        // The connection stays until the guest closes it too: closing now could cut off what is under way.
        wait_gone(stream.as_fd());
    })?;
    Ok(token)
}

/// From the process, until it has closed its end. Returns the stream's token.
fn carry_output(
    name: &str,
    output: OwnedFd,
    connect: &impl Connect,
    outputs: &Outputs,
    first: impl FnOnce() + Send + 'static,
) -> io::Result<u64> {
    let (token, connect, running) = (random_token()?, connect.clone(), Running::new(outputs));
    spawn(name, move || {
        if let Ok(stream) = connect_nonblocking(&connect, token) {
            let _ = copy(stream.as_fd(), output.as_fd(), None, Some(&running.1), first);
        }
    })?;
    Ok(token)
}

/// Both directions of a socket; each ends by itself. Returns the stream's token.
fn carry_socket(socket: OwnedFd, connect: &impl Connect, outputs: &Outputs) -> io::Result<u64> {
    let (token, connect, running) = (random_token()?, connect.clone(), Running::new(outputs));
    let socket = UnixStream::from(socket);
    spawn("socket", move || {
        let Ok(stream) = connect_nonblocking(&connect, token) else { return };
        let (Ok(from), Ok(to)) = (socket.try_clone(), stream.try_clone()) else { return };
        let input = spawn("socket input", move || {
            let _ = copy(from.as_fd(), to.as_fd(), Some(to.as_fd()), None, || {});
            let _ = to.shutdown(Shutdown::Write);
        });
        if input.is_ok() {
            let _ = copy(stream.as_fd(), socket.as_fd(), None, Some(&running.1), || {});
        }
        let _ = socket.shutdown(Shutdown::Write);
    })?;
    Ok(token)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_string()).spawn(run).map(drop)
}

fn connect_nonblocking(connect: &impl Connect, token: u64) -> Result<UnixStream, ConnectError> {
    let stream = connect(token)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn carry_terminal(
    stream: Result<UnixStream, ConnectError>,
    input: OwnedFd,
    output: &OwnedFd,
    first_output: impl FnOnce(),
    running: Running,
) {
    let Ok(stream) = stream else { return };
    let Ok(to_guest) = stream.try_clone() else { return };
    let typed = spawn("terminal input", move || {
        // No half-close at the end of the input: a terminal has none.
        let _ = copy(input.as_fd(), to_guest.as_fd(), Some(to_guest.as_fd()), None, || {});
    });
    if typed.is_ok() {
        let _ = copy(stream.as_fd(), output.as_fd(), None, Some(&running.1), first_output);
    }
    // Ends the other direction too.
    let _ = stream.shutdown(Shutdown::Both);
}

/// A duplicate of a stream, or nothing if it is /dev/null: the guest has one of its own.
fn unless_null(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let stat = rustix::fs::fstat(fd)?;
    let device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if device && stat.st_rdev == rustix::fs::makedev(1, 3) {
        return Ok(None);
    }
    fd.try_clone_to_owned().map(Some)
}

/// Copies until the end of `from`, or until `gone` (a socket) was closed by its other end. Calls `first` after the first bytes.
/// `activity` says whether the copy waits for `from`.
/// Either descriptor may be blocking or not. Returns the number of bytes copied.
///
/// splice(2) never waits here: while it does, the kernel holds the pipe's lock, so that nobody else can read what is in the pipe
/// or write to it, not even be killed. A socket that is written to must be non-blocking for the same reason.
pub fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    gone: Option<BorrowedFd<'_>>,
    activity: Option<&Activity>,
    first: impl FnOnce(),
) -> io::Result<u64> {
    let mut first = Some(first);
    let mut buffer = Vec::new();
    let mut total = 0;
    loop {
        if let Some(gone) = gone
            && !wait_readable(from, gone)?
        {
            return Ok(total);
        }
        // A read without splice may wait itself; a write sets this back.
        note(activity, !buffer.is_empty());
        let moved = match buffer.len() {
            0 => splice(from, None, to, None, SPLICE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK),
            _ => move_once(from, to, &mut buffer, activity),
        };
        match moved {
            Ok(0) => return Ok(total),
            Ok(count) => {
                total += count as u64;
                if let Some(first) = first.take() {
                    first();
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                note(activity, true);
                wait(from, PollFlags::IN)?;
                note(activity, false);
                wait(to, PollFlags::OUT)?;
            }
            // Neither is a pipe, or one is something that splice does not know.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if buffer.is_empty() => buffer.resize(BUFFER, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

fn note(activity: Option<&Activity>, waits_for_guest: bool) {
    if let Some(activity) = activity {
        activity.waits_for_guest(waits_for_guest);
    }
}

fn move_once(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    buffer: &mut [u8],
    activity: Option<&Activity>,
) -> rustix::io::Result<usize> {
    let count = rustix::io::read(from, &mut *buffer)?;
    note(activity, false);
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> rustix::io::Result<()> {
    retry_on_intr(|| poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None)).map(drop)
}

/// Waits for input; false if the socket `gone` was closed meanwhile.
fn wait_readable(from: BorrowedFd<'_>, gone: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(from, PollFlags::IN), PollFd::from_borrowed_fd(gone, PollFlags::empty())];
    retry_on_intr(|| poll(&mut fds, None))?;
    Ok(fds[1].revents().is_empty())
}

/// Waits until the other end has closed a socket.
fn wait_gone(socket: BorrowedFd<'_>) {
    let _ = wait(socket, PollFlags::empty());
}

#[cfg(test)]
mod tests;
