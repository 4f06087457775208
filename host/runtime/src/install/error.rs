//! Why a configuration file is left as it is.

use std::io;
use std::path::PathBuf;

use crate::error::Plain;

/// Why `sandbox install` or `sandbox uninstall` failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The kernel does not say.
    #[error("cannot find the file of this program: {}", Plain(.0))]
    Program(#[source] io::Error),
    /// What would be installed is not there.
    #[error("the file of this program was removed or replaced while it ran: call the one that is installed")]
    ProgramGone,
    /// `sandbox uninstall` would not know its entries.
    #[error("this program is {}: give it the name sandbox, by which `sandbox uninstall` knows its own", .0.display())]
    ProgramName(PathBuf),
    /// No file to edit.
    #[error(
        "neither docker nor containerd is on this machine: install one of them, or name its file with --docker-config or --containerd-config"
    )]
    NothingHere,
    /// The file system's answer.
    #[error("cannot {what} {}: {}{}", .path.display(), Plain(.source), as_root(.source))]
    File {
        /// A verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whether that file should be made, and how, only its owner knows.
    #[error("{} is a link to a file that is not there: make that file, or remove the link", .0.display())]
    Dangling(PathBuf),
    /// What is in the file.
    #[error("{}: {refusal}", .path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// Nobody reads it.
    #[error("cannot write to standard output: {}", Plain(.0))]
    Output(#[source] io::Error),
}

/// Why a file's text is not edited.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not JSON, or not TOML.
    #[error("line {line}, column {column}: {message}: mend the file first")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// Something has a type that its reader would not take.
    #[error("{field} must be {expected}: mend the file first")]
    Type {
        /// Where it is.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The name is another program's.
    #[error(
        "runtime {name} is another program, {program}: take another name with --runtime-name, or remove that entry"
    )]
    Foreign {
        /// The name.
        name: String,
        /// What it runs.
        program: String,
    },
    /// Containers would have no runtime.
    #[error("{field} is {name}: choose another one there first")]
    Default {
        /// The setting.
        field: &'static str,
        /// The name.
        name: String,
    },
    /// Too old.
    #[error("the file has no version, or 1: bring it to version 2 or newer first, with `containerd config migrate`")]
    OldVersion,
    /// Too new, or wrong.
    #[error("version {0} is not known here: 2, 3 and 4 are")]
    UnknownVersion(i64),
    /// Nothing would come of it.
    #[error("disabled_plugins has containerd's CRI plugin, which alone would read the runtime: enable it first")]
    CriDisabled,
}

/// The way out of the commonest failure.
fn as_root(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { ": run this as root" } else { "" }
}
