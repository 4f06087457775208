//! The container's file systems: what is mounted where, and how a path is kept inside the container's root.

pub mod devices;
pub mod fs;
pub mod id_map;
pub mod options;
pub mod resolve;
pub mod rootfs;

use agent_protocol::Plain;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use crate::spec::Plan;

/// Detached mounts that the agent makes for the container's process, which may not make them in its user namespace.
pub struct Prepared {
    /// By the place in the list of mounts: see [`id_map`].
    pub id_mapped: Vec<Option<OwnedFd>>,
    /// See [`devices::prepare`].
    pub nodes: Option<OwnedFd>,
}

impl Prepared {
    /// All of them.
    pub fn new(plan: &Plan) -> Result<Prepared, Error> {
        Ok(Prepared { id_mapped: id_map::prepare(plan)?, nodes: devices::prepare(plan)? })
    }

    /// Their descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.id_mapped.iter().flatten().chain(&self.nodes).map(AsRawFd::as_raw_fd)
    }
}

/// Something of the container's file systems that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount of config.json.
    #[error("cannot mount {source_path:?} ({fs_type}) at {target:?}: {}", Plain(error))]
    Mount {
        /// What.
        source_path: PathBuf,
        /// Its type.
        fs_type: String,
        /// Where, inside the container.
        target: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// A source of a bind mount.
    #[error("cannot bind mount {source_path:?} at {target:?}: {}", Plain(error))]
    Bind {
        /// What.
        source_path: PathBuf,
        /// Where, inside the container.
        target: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// An id-mapped mount.
    #[error(
        "mounts[{index}].uidMappings: cannot map the ids of the mount {target:?} (from {source_path:?}): {}",
        id_map_problem(error)
    )]
    IdMap {
        /// Position in the list.
        index: usize,
        /// What.
        source_path: PathBuf,
        /// Where, inside the container.
        target: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// A path inside the container that could not be made or opened.
    #[error("cannot {action} {path:?} in the container's root: {}", Plain(error))]
    Path {
        /// A verb.
        action: &'static str,
        /// Inside the container.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The image's /proc or /sys is a link, which leads who knows where. The last words are runc's.
    #[error("{target:?}: filesystem {fs_type:?} must be mounted on ordinary directory")]
    Ordinary {
        /// proc or sysfs.
        fs_type: String,
        /// Where to.
        target: PathBuf,
    },
    /// Something mounted over a part of /proc that security depends on.
    #[error("{0:?} cannot be mounted because it is inside /proc")]
    InsideProc(PathBuf),
    /// One of the steps without a path.
    #[error("cannot {step}: {}", Plain(error))]
    Step {
        /// A verb and its object.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// The kernel says "invalid argument" of a file system that cannot do it.
fn id_map_problem(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "its file system has no id-mapped mounts in the guest".to_owned(),
        _ => Plain(error).to_string(),
    }
}
