//! `sandbox delete`: nothing of the container is left.

use std::path::Path;

use super::{CommandError, end};
use crate::hooks::{self, Phase, Surroundings};
use crate::state::{ContainerId, Record, StateDir, StateError, Status, clear};

/// Removes a container that has ended, or was never started; with `force` any, and one that is not there is no error.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<(), CommandError> {
    match remove(root, &ContainerId::new(id)?, force) {
        Err(CommandError::State(StateError::Unknown)) if force => Ok(()),
        result => result,
    }
}

fn remove(root: &Path, id: &ContainerId, force: bool) -> Result<(), CommandError> {
    let mut state = StateDir::open(root, id)?;
    if force {
        // Whatever is at work on it finds the container ended, and gives up the lock.
        state.read()?.map_or(Ok(()), |record| end::end(&state, &record))?;
    }
    state.lock()?;
    // Without a record its `create` was killed early, and its process has ended with it: it held the lock.
    if let Some(record) = state.read()? {
        match record.status() {
            Status::Running | Status::Paused if !force => {
                return Err(CommandError::NotStopped { id: record.id.clone(), status: record.status() });
            }
            Status::Stopped => {}
            _ => end::end(&state, &record)?,
        }
        clear_up(root, &record)?;
    }
    state.remove()?;
    log::debug!("state directory {} is removed", root.join(id.as_str()).display());
    Ok(())
}

/// Removes what a container that has ended leaves beside its state, and runs the hooks for that.
pub(super) fn clear_up(root: &Path, record: &Record) -> Result<(), CommandError> {
    clear(root, record)?;
    // Each failure is logged, and the rest is removed nevertheless.
    let shown = record.shown_json();
    let _ = hooks::run_all(Phase::Poststop, &record.poststop, shown.as_bytes(), Surroundings::at(&record.bundle));
    Ok(())
}
