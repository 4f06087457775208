//! A process of the host by its number and its start: a number alone may be another's by now.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::sys;

/// How long processes of the host may take to die: one that was killed takes a while to give back the memory of a large guest.
pub const DEATH_TIMEOUT: Duration = Duration::from_secs(30);

/// Names a process for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started: clock ticks since the boot, field 22 of /proc/PID/stat.
    pub start: u64,
}

impl ProcessId {
    /// The living process with this number; a zombie is none.
    pub fn of(pid: i32) -> Option<Self> {
        // The name in brackets may hold anything, brackets and spaces too.
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = String::from_utf8_lossy(stat.get(end + 1..)?).into_owned();
        let mut fields = rest.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X" | "x") {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// The process is there and no zombie.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// A handle of the process, if it is alive.
    pub fn open(&self) -> Option<ProcessHandle> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after the handle exists: it is the handle of this process and of no other with the same number.
        self.is_alive().then_some(ProcessHandle(fd))
    }
}

/// A process that can be waited for and signalled, whoever its parent is.
#[derive(Debug)]
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// A descriptor that is readable once the process has ended.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Waits for the end (a zombie has ended); false if it does not come in time.
    pub fn wait(&self, timeout: Duration) -> bool {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let mut fd = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(retry_on_intr(|| poll(&mut fd, Some(&timeout))), Ok(count) if count > 0)
    }

    /// Sends it a signal. It may have ended already.
    pub fn signal(&self, number: i32) {
        if let Some(signal) = sys::signal(number) {
            let _ = pidfd_send_signal(&self.0, signal);
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        assert!(id.is_alive());
        assert!(!ProcessId { start: id.start + 1, ..id }.is_alive());
        let handle = id.open().unwrap();
        assert!(!handle.wait(Duration::ZERO));
        handle.kill();
        assert!(handle.wait(Duration::from_secs(10)));
        assert!(!id.is_alive(), "a zombie has ended");
        child.wait().unwrap();
        assert!(id.open().is_none());
    }
}
