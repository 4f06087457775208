//! Runs hooks, as a child of the container's future first process: in its namespaces and its cgroup.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_protocol::{Plain, SignalWords};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use serde_json::{Map, Value};

use crate::spec::hooks::HookPlan;
use crate::sys;

/// So much of a hook's last words is shown.
const TAIL: usize = 4096;

/// A hook that did not succeed, in the words that the host has for its own.
#[derive(Debug, thiserror::Error)]
#[error("error running hook #{index}: {phase} hook {path}: {problem}")]
pub struct Error {
    phase: &'static str,
    index: usize,
    path: String,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{}", Plain(.0))]
    Io(#[from] io::Error),
    #[error("hook ran past specified timeout of {:.1}s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("{how}, output: {output}")]
    Failed { how: String, output: String },
}

/// The container's state, as hooks get it.
pub struct State(Map<String, Value>);

impl State {
    /// From the request; it may be empty.
    pub fn new(json: &[u8]) -> Result<State, serde_json::Error> {
        Ok(State(if json.is_empty() { Map::new() } else { serde_json::from_slice(json)? }))
    }

    /// With the caller's own pid, as the container sees it.
    fn text(&self, status: &str) -> Vec<u8> {
        let mut state = self.0.clone();
        state.insert("status".to_owned(), status.into());
        state.insert("pid".to_owned(), rustix::process::getpid().as_raw_pid().into());
        Value::from(state).to_string().into_bytes()
    }
}

/// Where hooks run.
pub struct Surroundings<'a> {
    /// Their root directory, if it is not the caller's.
    pub root: Option<&'a Path>,
    /// The environment of those that say nothing of theirs: as with runc that of the container's process.
    pub env: &'a [CString],
}

/// One after the other, until one fails.
pub fn run_all(hooks: &[HookPlan], state: &State, status: &str, surroundings: &Surroundings<'_>) -> Result<(), Error> {
    for hook in hooks {
        run(hook, &state.text(status), surroundings).map_err(|problem| Error {
            phase: hook.phase,
            index: hook.index,
            path: hook.path.to_string_lossy().into_owned(),
            problem,
        })?;
    }
    Ok(())
}

fn run(hook: &HookPlan, state: &[u8], surroundings: &Surroundings<'_>) -> Result<(), Problem> {
    // A file, so that nobody waits for a hook that does not read.
    let mut input = File::from(memfd_create("state", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
    input.write_all(state)?;
    input.rewind()?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    fcntl_setfl(&read, OFlags::NONBLOCK).map_err(io::Error::from)?;
    match sys::fork()? {
        None => execute(hook, &input, &write, surroundings),
        Some((pid, pidfd)) => {
            drop(write);
            let mut output = File::from(read);
            let mut tail = Vec::new();
            let ended = wait(&pidfd, &mut output, &mut tail, hook.timeout);
            if !matches!(ended, Ok(true)) {
                // And what it has started, as far as that stayed in its session's first group.
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = kill_process(pid, Signal::KILL);
            }
            let (_, status) = waitpid(Some(pid), WaitOptions::empty())
                .map_err(io::Error::from)?
                .ok_or(io::Error::from(io::ErrorKind::NotFound))?;
            match (ended?, hook.timeout) {
                (false, Some(timeout)) => return Err(Problem::Timeout(timeout)),
                _ if status.exit_status() == Some(0) => return Ok(()),
                _ => {}
            }
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => format!("exit status {status}"),
                (None, signal) => format!("signal: {}", SignalWords(signal.unwrap_or_default())),
            };
            Err(Problem::Failed { how, output: String::from_utf8_lossy(&tail).trim_end().to_owned() })
        }
    }
}

/// In the hook's own process.
fn execute(hook: &HookPlan, input: &File, output: &OwnedFd, surroundings: &Surroundings<'_>) -> ! {
    let prepared = || -> io::Result<()> {
        for (fd, target) in [(input.as_fd(), 0), (output.as_fd(), 1), (output.as_fd(), 2)] {
            sys::dup_onto(fd, target)?;
        }
        rustix::process::setsid()?;
        if let Some(root) = surroundings.root {
            // After `Program::become_process` it has been done, and the container's profile may forbid it.
            sys::close_on_exec()?;
            rustix::process::chroot(root)?;
            rustix::process::chdir("/")?;
        }
        Ok(())
    };
    let path: &CStr = &hook.path;
    let error = match prepared() {
        Ok(()) => sys::execve(path, &hook.args, hook.env.as_deref().unwrap_or(surroundings.env)),
        Err(error) => error,
    };
    let _ = rustix::io::write(output, Plain(&error).to_string().as_bytes());
    sys::exit(127)
}

/// Whether it ended in time. What it writes meanwhile is read, so that it never waits for that, and its end kept.
fn wait(process: &OwnedFd, output: &mut File, tail: &mut Vec<u8>, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(false);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut both = [PollFd::new(process, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        let watched = if open { &mut both[..] } else { &mut both[..1] };
        match poll(watched, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !both[0].revents().is_empty();
        if open {
            open = read_tail(output, tail);
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Reads what is there; false at the end.
fn read_tail(output: &mut File, tail: &mut Vec<u8>) -> bool {
    let mut buffer = [0; TAIL];
    // A hook that never stops writing must not keep us from its deadline.
    for _ in 0..64 {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => {
                tail.extend(buffer.get(..n).unwrap_or_default());
                tail.drain(..tail.len().saturating_sub(TAIL));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<Duration>) -> HookPlan {
        let c = |text: &str| std::ffi::CString::new(text).unwrap();
        HookPlan {
            phase: "createContainer",
            index: 0,
            path: c("/bin/sh"),
            args: vec![c("sh"), c("-c"), c(script)],
            env: Some(vec![c("PATH=/bin:/usr/bin"), c("A=b")]),
            timeout,
        }
    }

    fn run_one(script: &str, timeout: Option<Duration>) -> Result<(), String> {
        let state = State::new(br#"{"id":"x","status":"stopped"}"#).unwrap();
        let surroundings = Surroundings { root: None, env: &[] };
        run_all(&[hook(script, timeout)], &state, "creating", &surroundings).map_err(|e| e.to_string())
    }

    #[test]
    fn a_hook_without_environment_has_the_process_s() {
        let state = State::new(b"").unwrap();
        let env = [c"PATH=/bin:/usr/bin".to_owned(), c"OF=process".to_owned()];
        let surroundings = Surroundings { root: None, env: &env };
        let silent = HookPlan { env: None, ..hook("test $OF = process", None) };
        run_all(&[silent], &state, "created", &surroundings).unwrap();
        run_all(&[hook("test -z $OF", None)], &state, "created", &surroundings).unwrap();
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment() {
        let me = std::process::id();
        let script = format!(
            r#"read line; echo "$line"; test "$line" = '{{"id":"x","pid":{me},"status":"creating"}}' && test $A = b"#
        );
        run_one(&script, None).unwrap();
        let state = State::new(b"{}").unwrap();
        let bare = HookPlan { env: Some(Vec::new()), ..hook("read -r all </proc/$$/environ; [ -z \"$all\" ]", None) };
        run_all(&[bare], &state, "creating", &Surroundings { root: None, env: &[c"A=b".to_owned()] }).unwrap();
    }

    #[test]
    fn failures_are_told_with_the_last_words() {
        let error = run_one("echo why >&2; exit 3", None).unwrap_err();
        assert_eq!(error, "error running hook #0: createContainer hook /bin/sh: exit status 3, output: why");
        assert!(run_one("kill -9 $$", None).unwrap_err().contains("signal: killed"));
        let long = run_one("yes | head -c 1000000; exit 1", None).unwrap_err();
        assert!(long.len() < 2 * TAIL, "{}", long.len());
    }

    #[test]
    fn time_is_limited() {
        let started = Instant::now();
        let error = run_one("exec sleep 60", Some(Duration::from_millis(200))).unwrap_err();
        assert!(error.contains("hook ran past specified timeout of 0.2s"), "{error}");
        assert!(run_one("yes", Some(Duration::from_millis(200))).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        let child = format!("sh -c 'echo $$ > {0}; exec sleep 61' & sleep 60", file.path().display());
        assert!(run_one(&child, Some(Duration::from_millis(500))).is_err());
        let left = std::fs::read_to_string(file.path()).unwrap();
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", left.trim())).unwrap_or_default();
            !(stat.is_empty() || stat.contains(") Z ") || stat.contains(") X "))
        };
        while lives() && started.elapsed() < Duration::from_secs(15) {
            std::thread::yield_now();
        }
        assert!(!lives());
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn what_a_hook_leaves_running_does_not_hold_it_up() {
        let started = Instant::now();
        run_one("sleep 20 & exit 0", None).unwrap();
        assert!(started.elapsed() < Duration::from_secs(15));
    }
}
