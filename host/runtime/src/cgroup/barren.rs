//! A cgroup without memory, beside a container's: for a process that is to be killed for want of it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{removal, write};

/// The directory, removed when dropped.
#[derive(Debug)]
pub struct Barren {
    path: PathBuf,
}

impl Barren {
    /// Makes it. One that is there was left by a process that was killed.
    pub(super) fn beside(cgroup: &Path) -> io::Result<Self> {
        let path = path(cgroup);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result?,
        }
        let barren = Self { path };
        write(&barren.path.join("memory.max"), "0")?;
        Ok(barren)
    }

    /// Takes processes.
    pub fn processes(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }
}

impl Drop for Barren {
    fn drop(&mut self) {
        let _ = removal::remove(&self.path);
    }
}

/// Where the one beside this cgroup is.
pub(super) fn path(cgroup: &Path) -> PathBuf {
    let mut name = cgroup.file_name().map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".oom");
    cgroup.with_file_name(name)
}
