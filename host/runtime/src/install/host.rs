//! What this machine has: this program's file, and other programs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::InstallError;

/// The name of this program's file.
pub(super) const NAME: &str = "sandbox";

/// What an installation depends on, besides the files that it edits.
#[derive(Clone, Debug)]
pub struct Host {
    /// Absolute path of this program.
    pub program: String,
    /// Where programs are looked for, as in PATH.
    pub search: OsString,
}

impl Host {
    /// This machine.
    pub fn this() -> Result<Self, InstallError> {
        let program = file_behind(Path::new("/proc/self/exe"))?;
        Ok(Host { program, search: std::env::var_os("PATH").unwrap_or_default() })
    }

    /// Whether there is a program of this name.
    pub(super) fn finds(&self, program: &str) -> bool {
        std::env::split_paths(&self.search).any(|directory| directory.join(program).is_file())
    }
}

/// The path that the kernel's link to a running program has, if the program is still there.
pub(super) fn file_behind(link: &Path) -> Result<String, InstallError> {
    let path = fs::read_link(link).map_err(InstallError::Program)?;
    // The link of a file that was removed leads to it still, but its text does not.
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    if identity(link).is_none() || identity(link) != identity(&path) {
        return Err(InstallError::ProgramGone);
    }
    if path.file_name().is_none_or(|name| name != NAME) {
        return Err(InstallError::ProgramName(path));
    }
    path.into_os_string().into_string().map_err(|path| InstallError::ProgramName(PathBuf::from(path)))
}
