//! `sandbox state`: what a container is, as JSON.

use std::io::{self, Write};
use std::path::Path;

use super::{CommandError, find};

/// Prints the state of a container.
pub fn state(root: &Path, id: &str) -> Result<(), CommandError> {
    let (_, record) = find(root, id)?;
    let text = serde_json::to_string_pretty(&record.shown()).map_err(io::Error::from);
    text.and_then(|text| writeln!(io::stdout(), "{text}")).map_err(CommandError::io("print the state"))
}
