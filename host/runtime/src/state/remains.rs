//! What a container that has ended can leave on the host, when its proxy was killed.

use crate::cgroup::CgroupError;
use crate::process_id::DEATH_TIMEOUT;
use crate::state::Record;

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

/// Ends the monitor and removes the cgroup of a container whose proxy has ended.
pub fn clear(record: &Record) -> Result<(), RemainsError> {
    // The monitor ends when its proxy does; one whose proxy was killed may still be at it, and it holds the container's files.
    if let Some(monitor) = record.monitor.and_then(|monitor| monitor.open()) {
        monitor.kill();
        if !monitor.wait(DEATH_TIMEOUT) {
            return Err(RemainsError::Immortal(record.id.clone()));
        }
    }
    Ok(record.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.remove())?)
}
