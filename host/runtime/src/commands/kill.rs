//! `sandbox kill`: a signal for the container's first process, or for all.

use std::path::Path;

use super::signal_name::parse;
use super::{CommandError, end, ended_or, find, reach};
use crate::signals::is_request_to_end;
use crate::state::Status;

/// Sends a signal.
pub fn kill(root: &Path, id: &str, signal: &str, all: bool) -> Result<(), CommandError> {
    // Without the lock: a command that is at work on the container may wait for what this ends.
    let (state, record) = find(root, id)?;
    let signal = parse(signal)?;
    match record.status() {
        // Callers send a last signal to all after the first process's death: all are dead then.
        Status::Stopped if all => return Ok(()),
        Status::Stopped => return Err(CommandError::NotRunning),
        // Nobody is there to handle a signal.
        Status::Created | Status::Creating if is_request_to_end(signal) => return end::end(&state, &record),
        _ if signal == libc::SIGKILL => return end::end(&state, &record),
        _ => {}
    }
    // Asks whether it is there.
    if signal != 0 {
        reach(&state, &record)?.signal(signal.unsigned_abs(), all).map_err(|error| ended_or(&record, error.into()))?;
        log::debug!("the guest has sent signal {signal}");
    }
    Ok(())
}
