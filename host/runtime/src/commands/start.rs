//! `sandbox start`: the container's process is executed.

use std::path::Path;

use super::{CommandError, end, ended_or, find_locked, reach};
use crate::hooks::{self, Phase, Surroundings};
use crate::notify::Manager;
use crate::proxy::wards;
use crate::state::{Record, StateDir, Status};

/// Starts a container that was created. Errors of the execution are this command's.
pub fn start(root: &Path, id: &str) -> Result<(), CommandError> {
    let (mut state, mut record) = find_locked(root, id)?;
    match record.status() {
        Status::Created => {}
        Status::Running => return Err(CommandError::AlreadyRunning),
        Status::Stopped => return Err(CommandError::CannotStartStopped),
        status @ (Status::Creating | Status::Paused) => return Err(CommandError::CannotStart(status)),
    }
    let manager = Manager::find()?;
    look_at_network(&state, &record)?;
    let guest = reach(&state, &record)?;
    guest.start(manager.is_some(), record.start_seconds).map_err(|error| ended_or(&record, error.into()))?;
    running(&state, &mut record)?;
    if let Some(manager) = manager {
        // Others may have their turn: this may take as long as the container runs.
        state.unlock();
        manager.tell_when_ready(&guest, record.proxy.pid.unsigned_abs());
    }
    Ok(())
}

/// Daemons can set up the network after `create` (docker from version 26 on): the container's process is to find it there.
fn look_at_network(state: &StateDir, record: &Record) -> Result<(), CommandError> {
    match wards::look_at_network(state.directory()) {
        Ok(None) => Ok(()),
        Ok(Some(sentence)) => Err(CommandError::Network(sentence)),
        Err(error) => Err(ended_or(record, CommandError::io("ask for the container's network")(error))),
    }
}

/// Keeps that the container runs, and runs the hooks for it. A container whose hooks fail is ended.
pub(super) fn running(state: &StateDir, record: &mut Record) -> Result<(), CommandError> {
    log::debug!("the container's process is executed");
    record.status = Status::Running;
    state.write(record)?;
    let shown = record.shown_json();
    let ran = hooks::run_all(Phase::Poststart, &record.poststart, shown.as_bytes(), Surroundings::at(&record.bundle));
    ran.map_err(|error| {
        let _ = end::end(state, record);
        error.into()
    })
}
