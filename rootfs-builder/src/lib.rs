//! Writes the initramfs that a guest boots from: a cpio archive with the agent as `/init` and, by default, nothing else.
//!
//! No `/dev` and no `/dev/console` are needed: every kernel carries a built-in archive with those two, unpacked before this
//! one, and the agent mounts a devtmpfs over it. The archive is not compressed: the guest unpacks it with a copy.
//!
//! The same input gives the same bytes, whoever builds it and when, so that an image can be named by its hash.

mod cpio;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use cpio::{Archive, CpioError};

/// The programs that `--debug` links to busybox: enough to look around in a guest. The others are reached as
/// `busybox NAME`.
const APPLETS: &[&str] = &[
    "ash", "cat", "chmod", "chroot", "cp", "cut", "date", "dd", "df", "dmesg", "du", "echo", "env", "find", "free",
    "grep", "head", "hexdump", "hostname", "id", "ifconfig", "ip", "kill", "less", "ln", "ls", "mkdir", "mknod",
    "more", "mount", "mv", "nc", "netstat", "ping", "ps", "pwd", "readlink", "reboot", "rm", "route", "sed", "sh",
    "sleep", "sort", "stat", "strings", "sync", "sysctl", "tail", "tar", "test", "top", "touch", "true", "umount",
    "uname", "uptime", "vi", "wc", "wget", "xargs",
];

/// What to put into an image.
#[derive(Debug, Clone)]
pub struct Config {
    /// The guest agent: a static x86-64 executable.
    pub agent: PathBuf,
    /// A static busybox, for an image with a debug shell.
    pub busybox: Option<PathBuf>,
}

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file that goes into the image is missing or unreadable.
    #[error("cannot read the {role} {}: {source}", .path.display())]
    Read {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The guest kernel could not start this file; found out now, this is a sentence instead of a guest's panic.
    #[error("the {role} {} is not an x86-64 ELF executable", .path.display())]
    NotExecutable {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file asks for a dynamic loader, and the image has none.
    #[error("the {role} {} is dynamically linked; the image needs a static one", .path.display())]
    Dynamic {
        /// What the file is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// An entry does not fit the archive format.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The image could not be written to its place.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The image's path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Puts the image together in memory.
pub fn build(config: &Config) -> Result<Vec<u8>, BuildError> {
    let agent = read_static_program("agent", &config.agent)?;
    let mut archive = Archive::default();
    if let Some(path) = &config.busybox {
        let busybox = read_static_program("busybox", path)?;
        archive.directory("bin", 0o755)?;
        archive.file("bin/busybox", 0o755, busybox)?;
        for applet in APPLETS {
            archive.symlink(&format!("bin/{applet}"), "busybox")?;
        }
    }
    archive.file("init", 0o755, agent)?;
    Ok(archive.finish()?)
}

/// Writes `image` to `output` in one step: a reader sees the old file or the new one, never a part.
pub fn write(image: &[u8], output: &Path) -> Result<(), BuildError> {
    let failed = |source| BuildError::Write { path: output.to_owned(), source };
    let directory = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(image).map_err(failed)?;
    // The temporary file is private to its owner; the image may be read by whoever runs containers.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.persist(output).map_err(|error| failed(error.error))?;
    Ok(())
}

fn read_static_program(role: &'static str, path: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = fs::read(path).map_err(|source| BuildError::Read { role, path: path.to_owned(), source })?;
    match is_static_program(&bytes) {
        Some(true) => Ok(bytes),
        Some(false) => Err(BuildError::Dynamic { role, path: path.to_owned() }),
        None => Err(BuildError::NotExecutable { role, path: path.to_owned() }),
    }
}

/// Whether an ELF program runs without a loader (it has no PT_INTERP segment); `None` if it is no x86-64 program.
fn is_static_program(bytes: &[u8]) -> Option<bool> {
    const ELF_64_LITTLE_ENDIAN: &[u8] = &[0x7f, b'E', b'L', b'F', 2, 1];
    const EM_X86_64: u64 = 62;
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(size)?)?;
        Some(field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    };
    if !bytes.starts_with(ELF_64_LITTLE_ENDIAN) || number(18, 2)? != EM_X86_64 {
        return None;
    }
    let (table, entry_size, entries) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..entries {
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        if number(usize::try_from(at).ok()?, 4)? == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests;
