//! What a caller gets of a new process: a file with its pid, a handle of it, the master of its terminal.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Args;

use super::CommandError;
use crate::console;
use crate::proxy::process::ProxyProcess;

/// Where it goes: options of every command that makes a process.
#[derive(Clone, Debug, Default, Args)]
pub struct Handover {
    /// File that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Unix socket that takes the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,

    /// Unix socket that takes a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
}

impl Handover {
    /// Connects to the socket that takes the terminal's master, which must be there if and only if there is a terminal.
    pub(super) fn console(&self, terminal: bool) -> Result<Option<OwnedFd>, CommandError> {
        match (&self.console_socket, terminal) {
            (Some(_), false) => Err(CommandError::NoTerminal),
            (None, true) => Err(CommandError::NoConsoleSocket),
            (None, false) => Ok(None),
            (Some(path), true) => {
                let socket = UnixStream::connect(path).map_err(CommandError::file("--console-socket", path))?;
                Ok(Some(socket.into()))
            }
        }
    }
}

/// Tells of a process that is there.
pub(super) fn tell(handover: &Handover, proxy: &ProxyProcess) -> Result<(), CommandError> {
    if let Some(path) = &handover.pidfd_socket {
        console::send_to(path, proxy.handle().as_fd(), b"pidfd").map_err(CommandError::file("--pidfd-socket", path))?;
    }
    if let Some(path) = &handover.pid_file {
        write_pid(path, proxy.id().pid).map_err(CommandError::file("--pid-file", path))?;
    }
    Ok(())
}

/// Writes a pid-file whole or not at all. Callers parse all of it: no newline.
fn write_pid(path: &Path, pid: i32) -> io::Result<()> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    let new = path.with_file_name(hidden);
    let _ = fs::remove_file(&new);
    let write = |mut file: File| file.write_all(pid.to_string().as_bytes());
    let open = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new);
    open.and_then(write).and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_have_no_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "old").unwrap();
        write_pid(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write_pid(Path::new("/nonexistent/pid"), 1).is_err());
    }
}
