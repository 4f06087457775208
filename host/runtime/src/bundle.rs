//! Reads a bundle: config.json as the OCI runtime specification defines it, and what is refused by name.
//!
//! All that can be found wrong without a micro-VM is found here, before one boots. What the text is made of is somebody else's:
//! its size, the length of its lists and of each string are bounded, and a sentence shows no more than the beginning of a value.

pub mod any_case;
mod check;
mod linux;
mod parse;
mod seccomp;
mod vm;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use crate::error::Plain;
use crate::settings::Settings;

pub use linux::warn_of_realtime;
pub use parse::repair_process;
pub use vm::VmRequest;

/// Why a bundle cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bundle's directory or its config.json cannot be read.
    #[error("{}: {}; name the bundle's directory with --bundle", .path.display(), Plain(.source))]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// config.json is not JSON, or a field has the wrong type.
    #[error("{}, line {line}, column {column}: {message}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// config.json is no file of a sensible size.
    #[error("{}: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// ociVersion is of another major version, or no version.
    #[error("ociVersion {0:?} in config.json is not supported: use a version 1.x of the OCI runtime specification")]
    Version(String),
    /// A field that must be there is not.
    #[error("{0} is missing in config.json")]
    Missing(&'static str),
    /// A field has a value that cannot be.
    #[error("{field} in config.json: {reason}")]
    Invalid {
        /// The field's name.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field asks for something that this runtime does not do.
    #[error("{field} in config.json is not supported{reason}; remove it from config.json")]
    Unsupported {
        /// The field's name.
        field: String,
        /// Empty, or the reason in brackets.
        reason: &'static str,
    },
}

/// A bundle that was read and checked.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its directory, absolute.
    pub directory: PathBuf,
    /// Its config.json, without what has no effect.
    pub spec: Spec,
    /// What its `vm` section asks for.
    pub vm: VmRequest,
}

impl Bundle {
    /// Reads and checks `directory`/config.json, with the built-in settings.
    pub fn load(directory: &Path) -> Result<Self, BundleError> {
        Self::load_with(directory, &Settings::default())
    }

    /// Reads and checks `directory`/config.json. The settings say what its `vm` section may ask for.
    pub fn load_with(directory: &Path, settings: &Settings) -> Result<Self, BundleError> {
        let read = |path: &Path| {
            let path = path.to_path_buf();
            move |source| BundleError::Read { path, source }
        };
        let directory = fs::canonicalize(directory).map_err(read(directory))?;
        let text = parse::read(&directory.join("config.json"))?;
        Self::parse(directory, &text, settings)
    }

    /// What `directory`/config.json says, as far as it can be read at all.
    pub fn spec_in(directory: &Path) -> Result<Spec, BundleError> {
        let path = directory.join("config.json");
        parse::spec(&path, &parse::read(&path)?)
    }

    /// Checks the text of a config.json in `directory`.
    pub(crate) fn parse(directory: PathBuf, text: &[u8], settings: &Settings) -> Result<Self, BundleError> {
        let mut spec = parse::spec(&directory.join("config.json"), text)?;
        check::all(&spec)?;
        let vm = VmRequest::of(&spec, settings)?;
        check::drop_what_has_no_effect(&mut spec);
        Ok(Self { directory, spec, vm })
    }

    /// The container's process has a terminal.
    pub fn wants_terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
    }
}

/// The beginning of a text from config.json, safe to show.
fn brief(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> BundleError {
    BundleError::Invalid { field: field.into(), reason: reason.into() }
}

/// An error if a field that is not supported is there.
fn refuse(present: bool, field: &str, reason: &'static str) -> Result<(), BundleError> {
    if present { Err(BundleError::Unsupported { field: field.to_string(), reason }) } else { Ok(()) }
}

#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod tests;
