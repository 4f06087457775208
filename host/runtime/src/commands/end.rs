//! A container's end by force: by way of its guest, so that nothing it wrote is lost, else without.

use std::time::Duration;

use super::CommandError;
use crate::guest::Guest;
use crate::process_id::ProcessHandle;
use crate::state::{Record, StateDir};

/// How long a guest may take from SIGKILL until all its files are synced and its processes on the host are gone.
const GUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long processes of the host may take to die.
const HOST_TIMEOUT: Duration = Duration::from_secs(10);

/// Kills all processes of the container and waits for its end.
pub(super) fn end(state: &StateDir, record: &Record) -> Result<(), CommandError> {
    if let Some(proxy) = record.proxy.open() {
        let killed = Guest::reach(&state.socket(), &record.id).is_ok_and(|guest| guest.signal(9, true).is_ok());
        if !(killed && proxy.wait(GUEST_TIMEOUT)) {
            proxy.kill();
        }
        gone(record, &proxy)?;
    }
    bury(record)
}

/// Makes sure that nothing of a container that has ended is left on the host.
pub(super) fn bury(record: &Record) -> Result<(), CommandError> {
    // It ends when its proxy does; one that was killed may still be at it, and it holds the container's files.
    let Some(monitor) = record.monitor.and_then(|monitor| monitor.open()) else { return Ok(()) };
    monitor.kill();
    gone(record, &monitor)
}

fn gone(record: &Record, process: &ProcessHandle) -> Result<(), CommandError> {
    if process.wait(HOST_TIMEOUT) { Ok(()) } else { Err(CommandError::Immortal(record.id.clone())) }
}
