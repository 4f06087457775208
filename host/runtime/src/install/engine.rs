//! The two programs that call OCI runtimes by their configuration.

use std::path::Path;

use super::error::Refusal;
use super::host::Host;
use super::{containerd, docker};

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Docker,
    Containerd,
}

impl Engine {
    /// Whether it is on this machine: its directory for `file` is, or its daemon.
    pub(super) fn is_here(self, file: &Path, host: &Host) -> bool {
        let daemon = match self {
            Self::Docker => "dockerd",
            Self::Containerd => "containerd",
        };
        file.parent().is_some_and(Path::is_dir) || host.finds(daemon)
    }

    /// What makes it read the file again.
    pub(super) fn next(self) -> &'static str {
        match self {
            Self::Docker => "systemctl reload docker",
            Self::Containerd => "systemctl restart containerd",
        }
    }

    /// The file's text with the runtime.
    pub(super) fn add(self, text: &str, name: &str, program: &str) -> Result<Change, Refusal> {
        match self {
            Self::Docker => docker::add(text, name, program),
            Self::Containerd => containerd::add(text, name, program),
        }
    }

    /// The file's text without the runtime; `before` is what it was before the runtime was added, if there was a file.
    pub(super) fn remove(self, text: &str, before: Option<&str>, name: &str) -> Result<Change, Refusal> {
        match self {
            Self::Docker => docker::remove(text, before, name),
            Self::Containerd => containerd::remove(text, before, name),
        }
    }
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// This text, which has the runtime.
    Added(String),
    /// This text, which has the runtime with another path than before.
    Updated(String),
    /// This text, which does not have the runtime any more.
    TakenOut(String),
    /// It goes: there was none before the runtime was added.
    FileRemoved,
    /// Nothing, since it has the runtime.
    Present,
    /// Nothing, since it has no such runtime.
    Absent,
    /// Nothing, since the runtime of that name is this other program.
    NotOurs(String),
    /// Nothing, since containerd would not read it.
    Unused,
}

impl Change {
    /// What will be in the file, if that is not what is in it.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Added(text) | Self::Updated(text) | Self::TakenOut(text) => Some(text),
            Self::FileRemoved => Some(""),
            Self::Present | Self::Absent | Self::NotOurs(_) | Self::Unused => None,
        }
    }

    /// What to say of it, once it is so.
    pub(super) fn sentence(&self, name: &str) -> String {
        match self {
            Self::Added(_) => format!("runtime {name} was added"),
            Self::Updated(_) => format!("runtime {name} has the path of this program now"),
            Self::TakenOut(_) => format!("runtime {name} was taken out"),
            Self::FileRemoved => format!("the file was removed: it held nothing but runtime {name}"),
            Self::Present => format!("runtime {name} is installed already"),
            Self::Absent => format!("runtime {name} is not installed"),
            Self::NotOurs(program) => format!("runtime {name} is another program, {program}: left as it is"),
            Self::Unused => {
                "disabled_plugins has containerd's CRI plugin, which alone would read it: left as it is".into()
            }
        }
    }
}

/// Whether a runtime's path is that of this program, wherever it was installed.
pub(super) fn is_ours(path: &str) -> bool {
    Path::new(path).file_name().is_some_and(|name| name == super::host::NAME)
}
