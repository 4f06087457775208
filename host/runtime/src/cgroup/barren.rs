//! A cgroup without memory: for a process that is to be killed for want of it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{hierarchy, removal, write};

/// What a container in v1 that has ended may still use until its guest has.
const SPARE: u64 = 1 << 20;

/// Where processes are out of memory.
#[derive(Debug)]
pub enum Barren {
    /// In a cgroup made for it (v2), removed when this is dropped.
    Beside(PathBuf),
    /// In the container's (v1), once [`exhaust`] has run there; with its limit, which holds again when this is dropped: the guest has yet to
    /// end.
    Within(PathBuf, String),
}

const LIMIT: &str = "memory.limit_in_bytes";

impl Barren {
    /// Makes one beside a cgroup. What is there was left by a process that was killed.
    pub(super) fn beside(cgroup: &Path) -> io::Result<Self> {
        let path = name(cgroup);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        let barren = Self::Beside(path.clone());
        write(&path.join("memory.max"), "0")?;
        Ok(barren)
    }

    /// Has a cgroup of v1 be one.
    pub(super) fn within(cgroup: &Path) -> io::Result<Self> {
        let limit = hierarchy::read(cgroup, LIMIT)?;
        Ok(Self::Within(cgroup.to_path_buf(), limit.trim().to_owned()))
    }

    /// What the process needs there: the file that takes the one that asks for memory, or the cgroup's directory.
    pub fn open(&self) -> io::Result<File> {
        match self {
            Self::Beside(path) => OpenOptions::new().write(true).open(path.join("cgroup.procs")),
            Self::Within(path, _) => File::open(path),
        }
    }
}

/// Leaves a cgroup of v1 little more memory than it uses.
pub fn exhaust(directory: &Path) -> io::Result<()> {
    let used: u64 = hierarchy::read(directory, "memory.usage_in_bytes")?.trim().parse().map_err(io::Error::other)?;
    write(&directory.join(LIMIT), &used.saturating_add(SPARE).to_string())
}

impl Drop for Barren {
    fn drop(&mut self) {
        let _ = match self {
            Self::Beside(path) => removal::remove(path).map_err(drop),
            Self::Within(path, limit) => write(&path.join(LIMIT), limit).map_err(drop),
        };
    }
}

/// Where the one beside this cgroup is.
pub(super) fn name(cgroup: &Path) -> PathBuf {
    let mut name = cgroup.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".oom");
    cgroup.with_file_name(name)
}
