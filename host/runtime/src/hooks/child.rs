//! One hook's process.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agent_protocol::SignalWords;
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::Failure;
use crate::sys;

/// So much of what a hook writes last is kept for the error's sentence.
const OUTPUT_KEPT: usize = 2048;
/// What is left in a pipe after the hook's end: no more than a pipe holds by default, several times over.
const OUTPUT_LEFT: usize = 1 << 20;

/// Runs the hook to its end or its timeout.
pub fn run(hook: &Hook, state_json: &[u8], directory: Option<&Path>) -> Result<(), Failure> {
    let timeout = hook.timeout().map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()));
    let begin = Instant::now();
    let mut child = command(hook, directory).spawn().map_err(Failure::Start)?;
    let deadline = timeout.and_then(|timeout| begin.checked_add(timeout));
    let mut streams = Streams::of(&mut child, state_json);
    match watch(&child, &mut streams, deadline) {
        Ok(true) => {}
        Ok(false) => {
            end(&mut child);
            return Err(Failure::Timeout(timeout.unwrap_or_default()));
        }
        Err(error) => {
            end(&mut child);
            return Err(Failure::Wait(error));
        }
    }
    let status = child.wait().map_err(Failure::Wait)?;
    if status.success() {
        return Ok(());
    }
    streams.finish();
    Err(Failure::Status { end: described(status), stdout: streams.stdout.text(), stderr: streams.stderr.text() })
}

fn command(hook: &Hook, directory: Option<&Path>) -> Command {
    let mut command = Command::new(hook.path());
    // A bundle can be gone when its container is deleted.
    if let Some(directory) = directory.filter(|directory| directory.is_dir()) {
        command.current_dir(directory);
    }
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    // As with runc: one that says nothing of its environment has the command's.
    if let Some(environment) = hook.env() {
        command.env_clear().envs(environment.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that a timeout ends its children too.
    command.process_group(0);
    // `run` holds signals back, which are its container's and not the hook's.
    sys::block_none_in(&mut command);
    command
}

/// Kills the hook and what it started, and collects it.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn described(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {}", SignalWords(signal)),
        (None, None) => "ended".to_string(),
    }
}

/// Carries the streams until the process has ended (true) or the deadline has come (false).
fn watch(child: &Child, streams: &mut Streams<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = wait_for(process.as_fd(), streams, left)?;
        if ready.ended {
            return Ok(true);
        }
        if left == Some(Duration::ZERO) {
            return Ok(false);
        }
        if ready.stdin {
            streams.write();
        }
        if ready.stdout {
            streams.stdout.read();
        }
        if ready.stderr {
            streams.stderr.read();
        }
    }
}

#[derive(Default)]
struct Ready {
    ended: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

fn wait_for(process: BorrowedFd<'_>, streams: &Streams<'_>, left: Option<Duration>) -> io::Result<Ready> {
    let streams = [
        streams.stdin.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::OUT)),
        streams.stdout.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
        streams.stderr.pipe.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::IN)),
    ];
    // One for each, the process's in place of one that is closed: then the places stay the same.
    let all = [Some((process, PollFlags::IN))].into_iter().chain(streams);
    let mut fds: Vec<PollFd<'_>> = all
        .map(|stream| stream.unwrap_or((process, PollFlags::empty())))
        .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
        .collect();
    let left = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    match poll(&mut fds, left.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Ready { ended: ready(0), stdin: ready(1), stdout: ready(2), stderr: ready(3) })
}

/// The three pipes, from this side. None of them ever blocks.
struct Streams<'a> {
    stdin: Option<ChildStdin>,
    unwritten: &'a [u8],
    stdout: Output<std::process::ChildStdout>,
    stderr: Output<std::process::ChildStderr>,
}

impl<'a> Streams<'a> {
    fn of(child: &mut Child, state_json: &'a [u8]) -> Self {
        Self {
            stdin: child.stdin.take().filter(set_nonblocking),
            unwritten: state_json,
            stdout: Output::of(child.stdout.take()),
            stderr: Output::of(child.stderr.take()),
        }
    }

    /// Writes what fits. A hook need not read its input, and closes it by ending, or on purpose: that is no failure.
    fn write(&mut self) {
        let Some(stdin) = self.stdin.as_mut() else { return };
        match stdin.write(self.unwritten) {
            Ok(written) => self.unwritten = self.unwritten.get(written..).unwrap_or_default(),
            Err(error) if is_again(&error) => return,
            Err(_) => self.unwritten = &[],
        }
        if self.unwritten.is_empty() {
            self.stdin = None;
        }
    }

    /// Reads what the ended hook left in the pipes. Children that it left behind may hold them open: nobody waits for those.
    fn finish(&mut self) {
        self.stdout.read_rest();
        self.stderr.read_rest();
    }
}

/// The last bytes of one stream.
struct Output<P> {
    pipe: Option<P>,
    kept: Vec<u8>,
}

impl<P: Read + AsFd> Output<P> {
    fn of(pipe: Option<P>) -> Self {
        Self { pipe: pipe.filter(|pipe| set_nonblocking(pipe)), kept: Vec::new() }
    }

    /// Reads once. Returns how much came.
    fn read(&mut self) -> usize {
        let Some(pipe) = self.pipe.as_mut() else { return 0 };
        let mut buffer = [0; 16384];
        let got = match pipe.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if is_again(&error) => return 0,
            Err(_) => 0,
        };
        if got == 0 {
            self.pipe = None;
        }
        self.kept.extend_from_slice(buffer.get(..got).unwrap_or_default());
        let surplus = self.kept.len().saturating_sub(OUTPUT_KEPT);
        self.kept.drain(..surplus);
        got
    }

    fn read_rest(&mut self) {
        let mut total = 0;
        while total < OUTPUT_LEFT {
            match self.read() {
                0 => return,
                got => total += got,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

fn is_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn set_nonblocking(pipe: &impl AsFd) -> bool {
    fcntl_getfl(pipe).and_then(|flags| fcntl_setfl(pipe, flags | OFlags::NONBLOCK)).is_ok()
}
