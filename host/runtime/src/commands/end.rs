//! A container's end by force: by way of its guest, so that nothing it wrote is lost, else without.

use std::time::Duration;

use super::CommandError;
use crate::guest::Guest;
use crate::process_id::DEATH_TIMEOUT;
use crate::state::{Record, RemainsError, StateDir};

/// How long a guest may take from SIGKILL until all its files are synced and its processes on the host are gone.
const GUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Kills all processes of the container and waits for its end.
pub(super) fn end(state: &StateDir, record: &Record) -> Result<(), CommandError> {
    let Some(proxy) = record.proxy.open() else { return Ok(()) };
    let killed = Guest::reach(&state.socket(), &record.id).is_ok_and(|guest| guest.signal(9, true).is_ok());
    if killed && proxy.wait(GUEST_TIMEOUT) {
        log::debug!("the guest has killed the container, and process {} on the host has ended", record.proxy.pid);
        return Ok(());
    }
    // Its monitor ends with it.
    log::debug!("the guest does not end the container: process {} on the host is killed", record.proxy.pid);
    proxy.kill();
    if proxy.wait(DEATH_TIMEOUT) { Ok(()) } else { Err(RemainsError::Immortal(record.id.clone()).into()) }
}
