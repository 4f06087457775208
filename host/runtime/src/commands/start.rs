//! `sandbox start`: the container's process is executed.

use std::path::Path;

use super::{CommandError, ended_or, find_locked, reach};
use crate::state::Status;

/// Starts a container that was created. Errors of the execution are this command's.
pub fn start(root: &Path, id: &str) -> Result<(), CommandError> {
    let (state, mut record) = find_locked(root, id)?;
    match record.status() {
        Status::Created => {}
        Status::Running => return Err(CommandError::AlreadyRunning),
        Status::Stopped => return Err(CommandError::CannotStartStopped),
        status @ (Status::Creating | Status::Paused) => return Err(CommandError::CannotStart(status)),
    }
    reach(&state, &record)?.start().map_err(|error| ended_or(&record, error.into()))?;
    record.status = Status::Running;
    state.write(&record)?;
    Ok(())
}
