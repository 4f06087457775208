//! `sandbox ps`: a container's processes, as pids of the host or as the guest knows them.

mod columns;
mod options;
mod selection;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::list::{Format, print};
use super::{CommandError, ended_or, find, reach};
use crate::state::{Status, execs};

/// Prints the processes. Options are those of ps(1): as with runc they choose among the container's own.
pub fn ps(root: &Path, id: &str, format: Format, options: &[String]) -> Result<(), CommandError> {
    let (state, record) = find(root, id)?;
    let runs = record.status() != Status::Stopped;
    match format {
        Format::Json if !runs => print("null\n"),
        // The host has one process for each that was asked for; others are the guest's alone.
        Format::Json => {
            let execs = execs::list(state.directory()).into_iter().map(|process| process.pid);
            let pids: Vec<i32> = std::iter::once(record.proxy.pid).chain(execs).collect();
            print(&(serde_json::to_string(&pids).unwrap_or_default() + "\n"))
        }
        Format::Table => {
            let (columns, selection) = options::chosen(options)?;
            let processes = match runs {
                true => reach(&state, &record)?.processes().map_err(|error| ended_or(&record, error.into()))?,
                false => Vec::new(),
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            print(&columns::table(&columns, &selection.of(processes, now), now))
        }
    }
}
