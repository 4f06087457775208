//! A directory of the agent's that holds a container's sockets.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmodat, chownat};

/// Removed with all that is in it when it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Makes the directory `id` below `parent`. One that is there is a container's that has ended.
    pub fn make(parent: &str, id: &str) -> io::Result<Self> {
        let path = Path::new(parent).join(id);
        let _ = fs::remove_dir_all(&path);
        DirBuilder::new().recursive(true).mode(0o755).create(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, fd })
    }

    /// A path of an entry that is short enough for an address of a socket, however long the container's ID is.
    pub fn address(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd())
    }

    /// Gives an entry its owner and its mode.
    pub fn set(&self, name: &str, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(self.fd.as_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(chmodat(self.fd.as_fd(), name, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Removes an entry.
    pub fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(self.fd.as_fd(), name, AtFlags::empty());
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Another container with the same ID may have come meanwhile, and made its own.
        let same = |there: &fs::Metadata| rustix::fs::fstat(&self.fd).is_ok_and(|own| own.st_ino == there.ino());
        if fs::metadata(&self.path).is_ok_and(|there| same(&there))
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            log::warn!("cannot remove {:?}: {error}", self.path);
        }
    }
}
