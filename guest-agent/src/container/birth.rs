//! What the agent does for each process between its clone and its readiness.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use tokio::sync::oneshot;

use super::ends::Ends;
use super::sync::{Channel, FromChild, ToChild};
use super::{Error, step};
use crate::mappings::map_text;
use crate::process::limits;
use crate::reaper::Exit;
use crate::spec::{Plan, ProcessPlan};

/// A process that was cloned and waits for [`raise`].
pub struct Born {
    /// In the guest's pid namespace.
    pub pid: Pid,
    /// To the process, until it executes.
    pub channel: Channel,
    /// From the reaper.
    pub exit: oneshot::Receiver<Exit>,
    /// The agent's side of its pipes.
    pub ends: Ends,
}

/// A process that waits for Start.
pub struct Ready {
    /// When the root file system was in place.
    pub mounted_ns: u64,
    /// The agent's side of its terminal.
    pub master: Option<OwnedFd>,
}

/// Lets a prepared child go, and waits until it is built.
pub async fn raise(channel: &Channel, exit: &mut oneshot::Receiver<Exit>) -> Result<Ready, Error> {
    let talk = |e| step("talk to the container's process")(e);
    // A child that failed already has said why: that is read below.
    let _ = channel.send(ToChild::Go).await;
    match channel.receive().await.map_err(talk)? {
        Some((FromChild::Ready { mounted_ns }, master)) => Ok(Ready { mounted_ns, master }),
        Some((FromChild::Failed(failure), _)) => Err(Error::Child(failure)),
        Some((FromChild::Executing, _)) => Err(talk(io::ErrorKind::InvalidData.into())),
        None => Err(Error::Died(exit.await.map_or(0, |e| e.status))),
    }
}

/// The id maps of a new user namespace.
pub fn map_ids(plan: &Plan, pid: Pid) -> Result<(), Error> {
    let linux = plan.spec.linux().as_ref();
    if plan.namespaces.is_new(libc::CLONE_NEWUSER) {
        let map = |m: Option<&[_]>| map_text(m.unwrap_or_default());
        write(pid, "uid_map", map(linux.and_then(|l| l.uid_mappings().as_deref())))?;
        write(pid, "gid_map", map(linux.and_then(|l| l.gid_mappings().as_deref())))?;
    }
    Ok(())
}

/// What a process in a user namespace could not do for itself. To be done when it is ready: the limits are the program's, and not those of
/// what builds its root, copies files into a tmpfs and runs hooks.
pub fn set_limits(process: &ProcessPlan, pid: Pid) -> Result<(), Error> {
    if let Some(value) = process.given.oom_score_adj() {
        write(pid, "oom_score_adj", value.to_string())?;
    }
    let rlimits = process.given.rlimits().as_deref().unwrap_or_default();
    limits::apply(pid, rlimits).map_err(|(kind, e)| died_or(e, format!("set {kind}")))
}

/// One that was killed meanwhile has no limits.
fn died_or(error: io::Error, what: String) -> Error {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => Error::Died(0),
        _ => step(what)(error),
    }
}

fn write(pid: Pid, file: &str, text: String) -> Result<(), Error> {
    let path: PathBuf = Path::new("/proc").join(pid.as_raw_pid().to_string()).join(file);
    fs::write(path, &text).map_err(|error| died_or(error, format!("write {:?} to {file}", text.trim_end())))
}
