//! `sandbox state`: what a container is, as JSON.

use std::path::Path;

use super::list::print;
use super::{CommandError, find};

/// Prints the state of a container.
pub fn state(root: &Path, id: &str) -> Result<(), CommandError> {
    let (_, record) = find(root, id)?;
    print(&(serde_json::to_string_pretty(&record.shown()).unwrap_or_default() + "\n"))
}
