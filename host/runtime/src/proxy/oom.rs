//! The guest's OOM kills, made visible on the host.
//!
//! Callers learn that a container was short of memory from its host cgroup: the kernel counts processes that it killed for that in
//! `oom_kill` of memory.events, and wakes up whoever watches. What a guest's kernel kills does not count there, so the proxy has the
//! host's kill a process of the container's that is there for nothing else. Its memory is lent to a second process in a cgroup without any,
//! which asks for some. The killer looks for its victim among the processes of that cgroup, and there is one; it ends
//! whoever shares the victim's memory, and counts that where the memory belongs: in the container's cgroup. So no other
//! process can be hit, and no limit of the container's is touched.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};

use super::protocol::fds;
use super::{ROLE_VARIABLE, Role};
use crate::cgroup::HostCgroup;
use crate::guest::Guest;
use crate::process_id::ProcessId;
use crate::state;
use crate::sys::{self, Spawn, Streams};

/// A guest may speak of kills as often as it likes. Those in between are one.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the host's kernel may take to kill, and a container's end waits for that.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

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
            follow(&guest, &ended, || show(&state));
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

/// Shows what the guest tells of; once more after the container's end.
fn follow(guest: &Guest, container_ended: &Receiver<()>, show: impl Fn() -> io::Result<()>) {
    let (mut seen, mut last) = (0, false);
    while let Ok(answer) = guest.wait_oom(seen) {
        if answer.count > seen {
            // The container goes on without; there is nobody to tell.
            let _ = show();
        }
        if last || answer.ended || answer.count <= seen {
            return;
        }
        seen = answer.count;
        last = container_ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected);
    }
}

/// Has the host's kernel count one kill in the container's cgroup.
fn show(state: &OwnedFd) -> io::Result<()> {
    let cgroup = state::record_in(state.as_fd()).and_then(|record| record.cgroup);
    let Some(barren) = cgroup.as_ref().and_then(HostCgroup::barren).transpose()? else { return Ok(()) };
    let processes = barren.processes()?;
    // In this process's cgroup, and in a process group of its own.
    let pid = sys::spawn(&Spawn {
        path: c"/proc/self/exe",
        arguments: &[c"sandbox: the guest is out of memory".into()],
        environment: &[CString::new(format!("{ROLE_VARIABLE}={}", Role::Victim.word()))?],
        streams: Streams::Null,
        descriptors: &[(processes.as_fd(), fds::COMMAND)],
    })?;
    let Some(group) = Pid::from_raw(pid) else { return Ok(()) };
    if !ProcessId::of(pid).and_then(|id| id.open()).is_none_or(|victim| victim.wait(KILL_TIMEOUT)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    while retry_on_intr(|| waitpgid(group, WaitOptions::empty())).is_ok() {}
    Ok(())
}

/// The process that is there to be killed.
pub(super) fn die() -> ExitCode {
    // The kernel's log shows this name.
    let _ = rustix::thread::set_name(c"sandbox-oom");
    if let Some(processes) = sys::inherited(fds::COMMAND) {
        sys::starve(processes.as_fd());
    }
    ExitCode::FAILURE
}
