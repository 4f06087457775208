//! `sandbox update`: other limits for a container that runs.

use std::io;
use std::path::{Path, PathBuf};

use agent_protocol::agent::UpdateMemoryRequest;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::{CommandError, bounded, ended_or, find_locked, reach};
use crate::bundle::{any_case, warn_of_realtime};
use crate::state::Status;

/// What the command line asks for.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// linux.resources as JSON, `-` for standard input; the rest is ignored then.
    pub file: Option<PathBuf>,
    /// A field of linux.resources (`memory/limit`) and its value each.
    pub fields: Vec<(&'static str, Value)>,
}

/// Changes limits. What is not asked for stays.
pub fn update(root: &Path, id: &str, limits: &Limits) -> Result<(), CommandError> {
    let (state, record) = find_locked(root, id)?;
    if matches!(record.status(), Status::Stopped | Status::Creating) {
        return Err(CommandError::NotRunning);
    }
    let text = match &limits.file {
        Some(path) => {
            let text = if path.as_os_str() == "-" { bounded::all(io::stdin()) } else { bounded::file(path) };
            text.map_err(CommandError::file("--resources", path))?
        }
        None => assemble(&limits.fields).to_string().into_bytes(),
    };
    let option = limits.file.as_deref().unwrap_or(Path::new("-"));
    let invalid = |error: serde_json::Error| CommandError::file("--resources", option)(error.into());
    let resources: LinuxResources = any_case::from_slice(&text).map_err(invalid)?;
    warn_of_realtime(&resources);
    // The guest reads the specification's own names.
    let text = serde_json::to_vec(&resources).map_err(invalid)?;
    let guest = reach(&state, &record)?;
    // The guest enforces them, so it comes first; it refuses what it cannot do.
    guest.update(text).map_err(|error| ended_or(&record, error.into()))?;
    log::debug!("the guest has changed its limits");
    record.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.update(&resources))?;
    log::debug!("the host's limits are changed");
    if resources.memory().is_some() || resources.unified().is_some() {
        // What it was refused before it may be granted now.
        guest.update_memory(&UpdateMemoryRequest::default()).map_err(|error| ended_or(&record, error.into()))?;
    }
    Ok(())
}

fn assemble(fields: &[(&'static str, Value)]) -> Value {
    let mut resources = json!({});
    for (name, value) in fields {
        let place = name.split('/').fold(&mut resources, |place, part| &mut place[part]);
        *place = value.clone();
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_resources() {
        let fields = [
            ("memory/limit", json!(5)),
            ("cpu/cpus", json!("0")),
            ("memory/swap", json!(-1)),
            ("pids/limit", json!(9)),
        ];
        let resources = assemble(&fields);
        assert_eq!(resources, json!({"memory": {"limit": 5, "swap": -1}, "cpu": {"cpus": "0"}, "pids": {"limit": 9}}));
        serde_json::from_value::<LinuxResources>(resources).unwrap();
        assert_eq!(assemble(&[]), json!({}));
    }
}
