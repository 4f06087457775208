//! Finds the program as the shell does, with the words for failure that callers of runc know.

use agent_protocol::Plain;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

/// Why a program cannot be executed. The words are part of the interface: dockerd takes exit statuses from them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A bare name, and no directory of $PATH has it.
    #[error("unable to start container process: exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// A path, and nothing is there.
    #[error("unable to start container process: exec: {0:?}: stat {0}: no such file or directory")]
    NotFound(String),
    /// No permission to execute it.
    #[error("unable to start container process: exec: {0:?}: permission denied")]
    Denied(String),
    /// A directory.
    #[error("unable to start container process: exec: {0:?}: is a directory")]
    Directory(String),
    /// What was found does not run: a script whose interpreter is missing, a file of another machine's. It is there, whatever the kernel
    /// says.
    #[error("unable to start container process: exec {}: {}", .path.display(), Plain(&(*errno).into()))]
    Execution {
        /// Of the program.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Any other answer of the kernel.
    #[error("unable to start container process: exec: {name:?}: {}", Plain(&(*errno).into()))]
    Other {
        /// As given.
        name: String,
        /// The answer.
        errno: Errno,
    },
}

/// The file to execute for `name`; relative paths are resolved from the working directory.
pub fn find(name: &CStr, path: &str) -> Result<CString, Error> {
    let shown = name.to_string_lossy().into_owned();
    if name.to_bytes().contains(&b'/') {
        return match executable(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))) {
            Ok(()) => Ok(name.to_owned()),
            Err(errno) => Err(failure(shown, errno)),
        };
    }
    if name.is_empty() {
        return Err(Error::NotInPath(shown));
    }
    // Without a PATH nothing is searched, the working directory neither.
    for dir in path.split(':').filter(|_| !path.is_empty()) {
        let dir = if dir.is_empty() { "." } else { dir };
        let file: PathBuf = Path::new(dir).join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        if executable(&file).is_ok() {
            return CString::new(file.into_os_string().into_vec()).map_err(|_| Error::NotInPath(shown));
        }
    }
    Err(Error::NotInPath(shown))
}

/// The value of PATH in an environment; the last one counts, as it does for the program itself.
pub fn path_of(env: &[CString]) -> &str {
    env.iter().rev().find_map(|e| e.to_str().ok()?.strip_prefix("PATH=")).unwrap_or_default()
}

/// The error for the answer to a question about the file.
fn failure(name: String, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => Error::NotFound(name),
        Errno::ACCESS | Errno::PERM => Error::Denied(name),
        Errno::ISDIR => Error::Directory(name),
        other => Error::Other { name, errno: other },
    }
}

fn executable(path: &Path) -> Result<(), Errno> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    // For root, access(2) says yes when anyone may execute; a file nobody may execute is ACCESS there too.
    if found.st_mode & 0o111 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
