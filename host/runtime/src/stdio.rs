//! Carries stdin, stdout and stderr (or a terminal) between this command and the container: one thread and one connection each.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::agent::Stdio;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{SpliceFlags, splice};

use crate::guest::ConnectError;
use crate::sys::random_token;

/// Read and written at once where splice(2) is not possible.
const BUFFER: usize = 256 << 10;
/// Moved at once by splice(2); a pipe holds less, so that this is no limit.
const SPLICE: usize = 1 << 20;

/// The output directions that still run.
#[derive(Clone, Debug, Default)]
pub struct Outputs(Arc<(Mutex<Left>, Condvar)>);

#[derive(Debug, Default)]
struct Left {
    running: usize,
    abandoned: bool,
}

impl Outputs {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Left)) {
        change(&mut self.left());
        self.0.1.notify_all();
    }

    /// Waits until all output was written, or somebody calls [`abandon`](Self::abandon).
    pub fn wait(&self) {
        let mut left = self.left();
        while left.running > 0 && !left.abandoned {
            left = self.0.1.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the same, but not longer than `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) {
        let unfinished = |left: &mut Left| left.running > 0 && !left.abandoned;
        let _ = self.0.1.wait_timeout_while(self.left(), timeout, unfinished);
    }

    /// Ends [`wait`](Self::wait) although output is left.
    pub fn abandon(&self) {
        self.change(|left| left.abandoned = true);
    }
}

/// Counts one output direction until it is dropped.
struct Running(Outputs);

impl Running {
    fn new(outputs: &Outputs) -> Self {
        outputs.change(|left| left.running += 1);
        Self(outputs.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|left| left.running -= 1);
    }
}

/// Starts what carries this process's stdio: with `terminal` one stream for both directions, else up to three.
/// `connect` makes the connection of a token and blocks until the guest is there, on a thread of its own.
/// `first_output` is called when the container has written for the first time (or more often).
pub fn start(
    terminal: bool,
    connect: impl Fn(u64) -> Result<UnixStream, ConnectError> + Clone + Send + 'static,
    first_output: impl Fn() + Clone + Send + 'static,
) -> io::Result<(Stdio, Outputs)> {
    let outputs = Outputs::default();
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut stdio = Stdio::default();
    if terminal {
        stdio.terminal_token = random_token()?;
        let token = stdio.terminal_token;
        let (input, output) = (stdin.as_fd().try_clone_to_owned()?, stdout.as_fd().try_clone_to_owned()?);
        let running = Running::new(&outputs);
        spawn("terminal", move || {
            carry_terminal(connect_nonblocking(&connect, token), input, &output, first_output, running)
        })?;
        return Ok((stdio, outputs));
    }
    if let Some(input) = unless_null(stdin.as_fd())? {
        stdio.stdin_token = random_token()?;
        let (token, connect) = (stdio.stdin_token, connect.clone());
        spawn("stdin", move || {
            let Ok(stream) = connect_nonblocking(&connect, token) else { return };
            let _ = copy(input.as_fd(), stream.as_fd(), Some(stream.as_fd()), || {});
            let _ = stream.shutdown(Shutdown::Write);
            // The connection stays until the guest closes it too: closing now could cut off what is under way.
            wait_gone(stream.as_fd());
        })?;
    }
    for (name, fd) in [("stdout", stdout.as_fd()), ("stderr", stderr.as_fd())] {
        let Some(output) = unless_null(fd)? else { continue };
        let token = random_token()?;
        if name == "stdout" {
            stdio.stdout_token = token
        } else {
            stdio.stderr_token = token
        }
        let (connect, first_output, running) = (connect.clone(), first_output.clone(), Running::new(&outputs));
        spawn(name, move || {
            let _running = running;
            if let Ok(stream) = connect_nonblocking(&connect, token) {
                let _ = copy(stream.as_fd(), output.as_fd(), None, first_output);
            }
        })?;
    }
    Ok((stdio, outputs))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_string()).spawn(run).map(drop)
}

fn connect_nonblocking(
    connect: &impl Fn(u64) -> Result<UnixStream, ConnectError>,
    token: u64,
) -> Result<UnixStream, ConnectError> {
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
    let _running = running;
    let Ok(stream) = stream else { return };
    let Ok(to_guest) = stream.try_clone() else { return };
    let typed = spawn("terminal input", move || {
        // No half-close at the end of the input: a terminal has none.
        let _ = copy(input.as_fd(), to_guest.as_fd(), Some(to_guest.as_fd()), || {});
    });
    if typed.is_ok() {
        let _ = copy(stream.as_fd(), output.as_fd(), None, first_output);
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
/// Either descriptor may be blocking or not. Returns the number of bytes copied.
///
/// splice(2) never waits here: while it does, the kernel holds the pipe's lock, so that nobody else can read what is in the pipe
/// or write to it, not even be killed. A socket that is written to must be non-blocking for the same reason.
pub fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    gone: Option<BorrowedFd<'_>>,
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
        let moved = match buffer.len() {
            0 => splice(from, None, to, None, SPLICE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK),
            _ => move_once(from, to, &mut buffer),
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
                wait(from, PollFlags::IN)?;
                wait(to, PollFlags::OUT)?;
            }
            // Neither is a pipe, or one is something that splice does not know.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if buffer.is_empty() => buffer.resize(BUFFER, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

fn move_once(from: BorrowedFd<'_>, to: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let count = rustix::io::read(from, &mut *buffer)?;
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
mod tests {
    use std::io::{Read, Write, pipe};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    const SIZE: usize = 100 << 20;

    /// Of a length that divides no buffer's, so that a lost, doubled or moved piece shows.
    fn block() -> Vec<u8> {
        (0..1_000_003u32).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
    }

    fn write_all(mut to: impl Write) {
        let block = block();
        let mut left = SIZE;
        while left > 0 {
            let count = left.min(block.len());
            to.write_all(&block[..count]).unwrap();
            left -= count;
        }
    }

    fn check_all(mut from: impl Read) {
        let mut data = Vec::new();
        from.read_to_end(&mut data).unwrap();
        assert_eq!(data.len(), SIZE);
        let block = block();
        assert!(data.chunks(block.len()).all(|chunk| chunk == &block[..chunk.len()]));
    }

    #[test]
    fn large_output_through_a_pipe() {
        let (source, stream) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || write_all(source));
            scope.spawn(move || check_all(reader));
            scope.spawn(move || {
                let firsts = AtomicUsize::new(0);
                let count = || firsts.store(firsts.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                assert_eq!(copy(stream.as_fd(), writer.as_fd(), None, count).unwrap(), SIZE as u64);
                assert_eq!(firsts.into_inner(), 1);
            });
        });
    }

    #[test]
    fn large_input_from_a_pipe_and_half_close() {
        let (reader, writer) = pipe().unwrap();
        let (stream, guest) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || write_all(writer));
            scope.spawn(move || check_all(guest));
            scope.spawn(move || {
                copy(reader.as_fd(), stream.as_fd(), Some(stream.as_fd()), || {}).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                wait_gone(stream.as_fd());
            });
        });
    }

    #[test]
    fn sockets_and_files_are_copied_without_splice() {
        let (source, stream) = UnixStream::pair().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || write_all(source));
            assert_eq!(copy(stream.as_fd(), file.as_fd(), None, || {}).unwrap(), SIZE as u64);
        });
        check_all(file.reopen().unwrap());
    }

    #[test]
    fn non_blocking_ends_are_waited_for() {
        let (source, stream) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        stream.set_nonblocking(true).unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || write_all(source));
            scope.spawn(move || check_all(reader));
            scope.spawn(move || copy(stream.as_fd(), writer.as_fd(), None, || {}).unwrap());
        });
    }

    /// Reads from the pipe, on a thread so that a pipe whose lock is held fails the test.
    fn read_soon(mut from: impl Read + Send + 'static, count: usize) -> String {
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut data = vec![0; count];
            from.read_exact(&mut data).unwrap();
            sender.send(String::from_utf8(data).unwrap()).unwrap();
        });
        receiver.recv_timeout(Duration::from_secs(10)).expect("the pipe can be read")
    }

    #[test]
    fn a_pipe_for_two_streams_is_free_while_both_are_silent() {
        let (reader, writer) = pipe().unwrap();
        let streams = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
        let sources = streams.map(|(source, stream)| {
            let writer = writer.try_clone().unwrap();
            thread::spawn(move || copy(stream.as_fd(), writer.as_fd(), None, || {}));
            source
        });
        thread::sleep(Duration::from_millis(50));
        for (mut source, text) in sources.iter().zip(["one", "two"]) {
            source.write_all(text.as_bytes()).unwrap();
            assert_eq!(read_soon(reader.try_clone().unwrap(), 3), text);
        }
    }

    #[test]
    fn a_pipe_is_free_while_its_guest_reads_nothing() {
        let (reader, mut writer) = pipe().unwrap();
        let (stream, _guest) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let source = reader.try_clone().unwrap();
        thread::spawn(move || copy(source.as_fd(), stream.as_fd(), Some(stream.as_fd()), || {}));
        // More than the socket and the pipe hold, without blocking.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for _ in 0..1000 {
                let _ = writer.write(&[0; 4096]);
                thread::sleep(Duration::from_micros(200));
            }
            sender.send(()).unwrap();
        });
        receiver.recv_timeout(Duration::from_secs(20)).expect("the pipe can be written to");
        drop(reader);
    }

    #[test]
    fn input_that_never_ends_is_left_when_the_guest_closes() {
        let (reader, _writer) = pipe().unwrap();
        let (stream, guest) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || copy(reader.as_fd(), stream.as_fd(), Some(stream.as_fd()), || {}));
        drop(guest);
        assert_eq!(thread.join().unwrap().unwrap(), 0);
    }

    #[test]
    fn a_reader_that_went_away_ends_the_direction() {
        let (mut source, stream) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        source.write_all(b"x").unwrap();
        let error = copy(stream.as_fd(), writer.as_fd(), None, || {}).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn outputs_are_waited_for() {
        let outputs = Outputs::default();
        outputs.wait();
        let running = Running::new(&outputs);
        let waiting = outputs.clone();
        let thread = thread::spawn(move || waiting.wait());
        drop(running);
        thread.join().unwrap();
        let _stuck = Running::new(&outputs);
        outputs.wait_timeout(Duration::from_millis(1));
        outputs.abandon();
        let start = Instant::now();
        outputs.wait();
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn dev_null_is_no_stream() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(unless_null(null.as_fd()).unwrap().is_none());
        let zero = std::fs::File::open("/dev/zero").unwrap();
        assert!(unless_null(zero.as_fd()).unwrap().is_some());
    }
}
