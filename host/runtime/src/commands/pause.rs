//! `sandbox pause` and `sandbox resume`.

use std::path::Path;

use super::{CommandError, ended_or, find_locked, reach};
use crate::state::Status;

/// Freezes all processes of a container.
pub fn pause(root: &Path, id: &str) -> Result<(), CommandError> {
    let (state, mut record) = find_locked(root, id)?;
    match record.status() {
        Status::Created | Status::Running => {}
        Status::Paused => return Err(CommandError::AlreadyPaused),
        Status::Creating | Status::Stopped => return Err(CommandError::NotRunning),
    }
    reach(&state, &record)?.pause().map_err(|error| ended_or(&record, error.into()))?;
    record.before_pause = Some(record.status);
    record.status = Status::Paused;
    Ok(state.write(&record)?)
}

/// Lets them go on.
pub fn resume(root: &Path, id: &str) -> Result<(), CommandError> {
    let (state, mut record) = find_locked(root, id)?;
    if record.status() != Status::Paused {
        return Err(CommandError::NotPaused);
    }
    reach(&state, &record)?.resume().map_err(|error| ended_or(&record, error.into()))?;
    record.status = record.before_pause.take().unwrap_or(Status::Running);
    Ok(state.write(&record)?)
}
