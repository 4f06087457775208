//! What a container that has ended can leave on the host, when its proxy was killed.

use std::path::Path;
use std::time::Duration;

use crate::cgroup::CgroupError;
use crate::joined;
use crate::process_id::DEATH_TIMEOUT;
use crate::state::{Record, records};

/// Something is left.
#[derive(Debug, thiserror::Error)]
pub enum RemainsError {
    /// A process that cannot be killed.
    #[error("the processes of container {0:?} on the host do not end")]
    Immortal(String),
    /// The host's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// How long a keeper may take to put things in order: the guest may be slow.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(15);

/// Ends the monitor and removes the cgroup of a container whose proxy has ended. A cgroup that another container of ROOT runs in stays,
/// until that one is deleted.
pub fn clear(root: &Path, record: &Record) -> Result<(), RemainsError> {
    // The monitor ends when its proxy does; one whose proxy was killed may still be at it, and it holds the container's files.
    if let Some(monitor) = record.monitor.and_then(|monitor| monitor.open()) {
        // A keeper takes out what it has put into another's micro-VM.
        if record.joined.is_none() || !monitor.wait(KEEPER_TIMEOUT) {
            monitor.kill();
        }
        if !monitor.wait(DEATH_TIMEOUT) {
            return Err(RemainsError::Immortal(record.id.clone()));
        }
    }
    joined::clear(root, record);
    let Some(cgroup) = &record.cgroup else { return Ok(()) };
    let paths = cgroup.paths();
    let shares = |other: &Record| other.id != record.id && other.cgroup.as_ref().is_some_and(|c| c.paths() == paths);
    let other =
        if cgroup.has_processes() { records(root).find(|other| shares(other) && other.proxy.is_alive()) } else { None };
    match other {
        Some(other) => log::debug!("container {:?} is in the same cgroup, which stays", other.id),
        None => cgroup.remove()?,
    }
    Ok(())
}
