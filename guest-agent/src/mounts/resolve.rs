//! Paths inside the container's root. The image may be hostile: a symbolic link in it must never lead outside, so the
//! kernel resolves every path with the root as `/` (openat2, RESOLVE_IN_ROOT), and what is then done is done to the
//! descriptor, not to the path again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat2, readlinkat};
use rustix::io::Errno;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// The container's root directory.
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a mount's source is, and its target must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

impl Root {
    /// Opens it; to be done again after something was mounted on it.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root { fd: rustix::fs::open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// Opens what is at `path`, following links.
    pub fn get(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open_in(path, OFlags::PATH)?)
    }

    /// Opens the directory at `path`, following links, and has the kernel mount what is to be mounted there on the way.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open_in(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    fn open_in(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        // The kernel gives up when something is renamed meanwhile; nobody but us is at work here, but be sure.
        for _ in 0..16 {
            match openat2(&self.fd, dotted(path), flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Whether something is at `path` that is no directory; links in its last part are not followed, and are something.
    pub fn is_other_than_directory(&self, path: &Path) -> bool {
        let found = self.open_in(path, OFlags::PATH | OFlags::NOFOLLOW).and_then(rustix::fs::fstat);
        found.is_ok_and(|stat| !FileType::from_raw_mode(stat.st_mode).is_dir())
    }

    /// Opens what is at `path`, after creating it and the directories above it where they are missing.
    pub fn get_or_create(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        Ok(self.create(path, kind, MAX_LINKS)?)
    }

    fn create(&self, path: &Path, kind: Kind, links: usize) -> Result<OwnedFd, Errno> {
        match self.open_in(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (Some(name), Some(parent_path)) = (path.file_name(), path.parent()) else { return Err(Errno::NOENT) };
        let parent = self.create(parent_path, Kind::Directory, links)?;
        let made = match kind {
            Kind::Directory => mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            Kind::File => mknodat(&parent, name, rustix::fs::FileType::RegularFile, Mode::from_raw_mode(0o755), 0),
        };
        match made {
            // It is there and yet was not found: a link to something missing. Make what it points to.
            Err(Errno::EXIST) if links > 0 => {
                let target = match readlinkat(&parent, name, Vec::new()) {
                    Ok(target) => target,
                    Err(_) => return self.open_in(path, OFlags::PATH),
                };
                let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(target.as_bytes());
                self.create(&parent_path.join(target), kind, links - 1)
            }
            Err(Errno::EXIST) => Err(Errno::LOOP),
            Err(error) => Err(error),
            Ok(()) => self.open_in(path, OFlags::PATH),
        }
    }

    /// Opens the directory that holds `path`, creating it where it is missing, for *at calls with the last part.
    pub fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        self.get_or_create(path.parent().unwrap_or(Path::new("/")), Kind::Directory)
    }

    /// The path of an open file as the container sees it, with no links left in it.
    pub fn seen_path(&self, fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
        let (path, root) = (std::fs::read_link(proc_path(fd))?, std::fs::read_link(proc_path(self.fd.as_fd()))?);
        Ok(Path::new("/").join(path.strip_prefix(&root).unwrap_or(&path)))
    }

    /// The directory's path in the guest.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// openat2 takes the empty path for a mistake.
fn dotted(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// A path by which the kernel finds an open file again: mount(2) and its like take no descriptors.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
