//! The guest's OOM kills, made visible on the host.
//!
//! Callers learn that a container was short of memory from its host cgroup: the kernel counts processes that it killed for that in
//! `oom_kill` of memory.events, and wakes up whoever watches. What a guest's kernel kills does not count there, so the proxy has the
//! host's kill a process of the container's that is there for nothing else. Its memory is lent to a second process in a cgroup without any,
//! which asks for some. The killer looks for its victim among the processes of that cgroup, and there is one; it ends
//! whoever shares the victim's memory, and counts that where the memory belongs: in the container's cgroup. So no other
//! process can be hit, and no limit of the container's is touched.
//!
//! In v1 callers get an event of the container's cgroup only when that is at its own limit. So there the kill waits for the container's end;
//! then the limit is lowered to what is in use, and the process asks for more in the container's cgroup itself, as the killer's first choice.

use std::ffi::CString;
use std::fs;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};

use super::protocol::fds;
use super::{ROLE_VARIABLE, Role};
use crate::cgroup::{Barren, exhaust};
use crate::guest::Guest;
use crate::process_id::ProcessId;
use crate::state;
use crate::sys::{self, Spawn, Streams};

/// A guest may speak of kills as often as it likes. Those in between are one.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the host's kernel may take to kill, and a container's end waits for that.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel frees what it can before it kills: the pages of files that the guest has read.
const PIECES: usize = 1024;
const PIECE: usize = 1 << 20;

/// Watches a container on a thread.
#[derive(Debug)]
pub struct Watch {
    container: Sender<()>,
    shown: Receiver<()>,
}

impl Watch {
    /// From now on.
    pub fn start(guest: Arc<Guest>, state: Arc<OwnedFd>) -> io::Result<Self> {
        let (container, ended) = mpsc::channel();
        let (showing, shown) = mpsc::channel();
        let watch = move || {
            follow(&guest, &ended, |ended| show(&state, ended));
            drop::<Sender<()>>(showing);
        };
        thread::Builder::new().name("oom".to_string()).spawn(watch)?;
        Ok(Self { container, shown })
    }

    /// The container has ended, and processes of it were killed: waits until all of that is shown.
    pub fn settle(self) {
        drop(self.container);
        let _ = self.shown.recv_timeout(KILL_TIMEOUT);
    }
}

/// Shows what the guest tells of; once more after the container's end. `show` says whether it could.
fn follow(guest: &Guest, container_ended: &Receiver<()>, show: impl Fn(bool) -> io::Result<bool>) {
    let (mut seen, mut to_show, mut last) = (0, false, false);
    while let Ok(answer) = guest.wait_oom(seen) {
        to_show |= answer.count > seen;
        let ended = last || answer.ended;
        if to_show {
            // After an error the container goes on without; there is nobody to tell.
            to_show = !show(ended).unwrap_or(true);
        }
        if ended || answer.count <= seen {
            return;
        }
        seen = answer.count;
        last = container_ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected);
    }
}

/// Has the host's kernel count one kill in the container's cgroup; says if it is too early for that.
fn show(state: &OwnedFd, ended: bool) -> io::Result<bool> {
    let Some(cgroup) = state::record_in(state.as_fd()).and_then(|record| record.cgroup) else { return Ok(true) };
    let Some(barren) = cgroup.starve(ended)? else { return Ok(false) };
    let place = barren.open()?;
    let number = if matches!(barren, Barren::Beside(_)) { fds::COMMAND } else { fds::STATE };
    // In this process's cgroup, and in a process group of its own.
    let pid = sys::spawn(&Spawn {
        path: c"/proc/self/exe",
        arguments: &[c"sandbox: the guest is out of memory".into()],
        environment: &[CString::new(format!("{ROLE_VARIABLE}={}", Role::Victim.word()))?],
        streams: Streams::Null,
        descriptors: &[(place.as_fd(), number)],
    })?;
    let Some(group) = Pid::from_raw(pid) else { return Ok(true) };
    if !ProcessId::of(pid).and_then(|id| id.open()).is_none_or(|victim| victim.wait(KILL_TIMEOUT)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    while retry_on_intr(|| waitpgid(group, WaitOptions::empty())).is_ok() {}
    Ok(true)
}

/// How soon the host's kernel ends this process, and those that it starts, for want of memory: a caller's own score (containerd's shim has
/// -998) would have it end everybody else first. Less than the caller's takes CAP_SYS_RESOURCE; without that it stays, which harms nobody else.
pub(super) fn score(score: &str) {
    let _ = fs::write("/proc/self/oom_score_adj", score.trim_end());
}

/// The process that is there to be killed.
pub(super) fn die() -> ExitCode {
    // The kernel's log shows this name.
    let _ = rustix::thread::set_name(c"sandbox-oom");
    // The caller's is inherited, and conmon's is -1000: those the killer spares, and nobody would be counted.
    score("1000");
    match (sys::inherited(fds::COMMAND), sys::inherited(fds::STATE)) {
        (Some(processes), _) => sys::starve(processes.as_fd()),
        (None, Some(directory)) => drop(eat(&directory)),
        (None, None) => {}
    }
    ExitCode::FAILURE
}

/// Takes the last memory, as the killer's first choice: the monitor uses more, and has files to write still.
fn eat(cgroup: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let directory = PathBuf::from(format!("/proc/self/fd/{}", cgroup.as_raw_fd()));
    let own = std::process::id().to_string();
    for pid in fs::read_to_string(directory.join("cgroup.procs"))?.lines().filter(|pid| *pid != own) {
        // One that has ended meanwhile has none.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "-999");
    }
    exhaust(&directory)?;
    Ok((0..PIECES).map(|_| black_box(vec![1; PIECE])).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::net::UnixStream;

    use agent_protocol::agent::WaitOomResponse;
    use protobuf::Message;

    use super::*;
    use crate::guest::tests::{read_request, reply};

    /// What is shown, as whether the container had ended, of a guest that gives these answers: a count, and whether it has ended.
    fn shown(answers: &'static [(u64, bool)], can_show: fn(bool) -> bool) -> Vec<bool> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            for (count, ended) in answers {
                let (number, _) = read_request(&theirs).unwrap();
                let answer = WaitOomResponse { count: *count, ended: *ended, ..Default::default() };
                reply(&theirs, number, Ok(answer.write_to_bytes().unwrap()));
            }
        });
        let guest = Guest::over(ours, "c1").unwrap();
        let (container, ended) = mpsc::channel();
        let shown = RefCell::new(Vec::new());
        follow(&guest, &ended, |ended| {
            shown.borrow_mut().push(ended);
            Ok(can_show(ended))
        });
        drop::<Sender<()>>(container);
        agent.join().unwrap();
        shown.into_inner()
    }

    #[test]
    fn each_kill_is_shown_once() {
        assert_eq!(shown(&[(1, false), (1, true)], |_| true), [false]);
        assert_eq!(shown(&[(1, false), (3, true)], |_| true), [false, true]);
        assert!(shown(&[(0, true)], |_| true).is_empty());
    }

    #[test]
    fn what_cannot_be_shown_yet_is_shown_at_the_end() {
        assert_eq!(shown(&[(1, false), (1, true)], |ended| ended), [false, true]);
    }

    #[test]
    fn a_guest_that_tells_nothing_new_is_not_asked_again() {
        assert_eq!(shown(&[(1, false), (1, false)], |_| true), [false]);
        assert!(shown(&[(0, false)], |_| true).is_empty());
    }
}
