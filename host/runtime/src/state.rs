//! The state directory of a container, ROOT/ID: made with the container, locked while its command lives, removed at its end.
//!
//! Under an exclusive lock on ROOT a directory ROOT/ID exists if and only if its container lives or its command was killed;
//! `ROOT/ID/sandbox.lock` is locked in the first case only. So whoever makes a container sweeps what killed commands left.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::Plain;

/// Why a container's state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The ID breaks the rule.
    #[error("invalid container ID format: {0:?}; use up to {MAX_ID} of A-Z a-z 0-9 _ + - . and not \".\" or \"..\"")]
    Id(String),
    /// A container with this ID lives.
    #[error("container with id {0:?} already exists")]
    Exists(String),
    /// A file or directory cannot be made or read.
    #[error("state directory {}: {}; name another with --root", .path.display(), Plain(.source))]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The longest name that a directory can have.
const MAX_ID: usize = 255;
/// Also the mark by which a directory is known as this program's, whatever else somebody keeps in ROOT.
const LOCK: &str = "sandbox.lock";
const SOCKET: &str = "vsock.sock";

/// Where, under the lock on ROOT, a directory is made before it gets its name and emptied after it lost it: so one that has a
/// name is complete, whenever its command was killed. No ID has this character.
const STAGING: &str = "~sandbox";

/// How many entries of ROOT one start looks at for what killed commands left.
const SWEEP_LIMIT: usize = 64;

/// A container's name, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks an ID by the rule that other runtimes have: `^[\w+\-.]+$`, no directory reference, and no longer than
    /// a directory's name can be.
    pub fn new(id: &str) -> Result<Self, StateError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.bytes().all(allowed) {
            return Err(StateError::Id(id.to_string()));
        }
        Ok(Self(id.to_string()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container's state directory. Dropping it removes it.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    path: PathBuf,
    /// Open on `path`, so that socket paths stay short however long ROOT and ID are.
    directory: File,
    /// Held until after the removal.
    _lock: File,
}

impl StateDir {
    /// Makes ROOT (if need be) and ROOT/ID, and sweeps what killed commands left.
    pub fn create(root: &Path, id: &ContainerId) -> Result<Self, StateError> {
        let error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(error(root))?;
        let _exclusive = lock_root(root).map_err(error(root))?;
        let path = root.join(id.as_str());
        if path.symlink_metadata().is_ok() && !sweep(root, &path).map_err(error(&path))? {
            return Err(StateError::Exists(id.to_string()));
        }
        sweep_others(root);
        let (directory, lock) = make(root, &path).map_err(error(&path))?;
        Ok(Self { root: root.to_path_buf(), path, directory, _lock: lock })
    }

    /// Binds the socket on which the monitor takes connections to the guest.
    pub fn listen(&self) -> Result<OwnedFd, StateError> {
        UnixListener::bind(self.socket())
            .map(OwnedFd::from)
            .map_err(|source| StateError::Io { path: self.path.join(SOCKET), source })
    }

    /// A short path to the socket, good in this process.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.directory.as_raw_fd()))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Without the lock on ROOT the removal would race with a start that looks at a half-removed directory.
        let _exclusive = lock_root(&self.root);
        let _ = discard(&self.root, &self.path);
    }
}

/// Makes a state directory and its lock, which is held. ROOT is locked.
fn make(root: &Path, path: &Path) -> io::Result<(File, File)> {
    let staging = root.join(STAGING);
    let mkdir = || DirBuilder::new().mode(0o700).create(&staging);
    match mkdir() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            empty(&staging)?;
            mkdir()?;
        }
        result => result?,
    }
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staging.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let directory = File::open(&staging)?;
    fs::rename(&staging, path)?;
    Ok((directory, lock))
}

/// Removes a state directory. ROOT is locked.
fn discard(root: &Path, path: &Path) -> io::Result<()> {
    let staging = root.join(STAGING);
    let _ = empty(&staging);
    fs::rename(path, &staging)?;
    empty(&staging)
}

/// Removes a directory that holds nothing but what this program puts there.
fn empty(path: &Path) -> io::Result<()> {
    let _ = fs::remove_file(path.join(SOCKET));
    let _ = fs::remove_file(path.join(LOCK));
    fs::remove_dir(path)
}

fn lock_root(root: &Path) -> io::Result<File> {
    let file = File::open(root)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|()| file).map_err(io::Error::from),
        }
    }
}

/// Removes a state directory if nobody holds its lock. Returns whether it is gone. ROOT is locked.
fn sweep(root: &Path, path: &Path) -> io::Result<bool> {
    let lock = match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path.join(LOCK)) {
        Ok(lock) => lock,
        // Not this program's: it may go if it is empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::remove_dir(path).map(|()| true),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => discard(root, path).map(|()| true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn sweep_others(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.take(SWEEP_LIMIT).flatten() {
        // Only what this program made. The lock tells.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.path().join(LOCK).exists() {
            let _ = sweep(root, &entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn id(name: &str) -> ContainerId {
        ContainerId::new(name).unwrap()
    }

    #[test]
    fn id_rules() {
        for good in ["a", "A_b+c-d.e", "...", "0", &"x".repeat(255)] {
            ContainerId::new(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "é", "a\n", "a\0", &"x".repeat(256)] {
            assert!(matches!(ContainerId::new(bad), Err(StateError::Id(_))), "{bad:?}");
        }
    }

    #[test]
    fn directory_is_private_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("deep/root");
        let state = StateDir::create(&root, &id("c")).unwrap();
        assert_eq!(fs::metadata(root.join("c")).unwrap().permissions().mode() & 0o777, 0o700);
        let _listener = state.listen().unwrap();
        UnixStream::connect(state.socket()).unwrap();
        drop(state);
        assert!(fs::read_dir(&root).unwrap().next().is_none());
    }

    #[test]
    fn a_living_container_keeps_its_id() {
        let root = tempfile::tempdir().unwrap();
        let _state = StateDir::create(root.path(), &id("c")).unwrap();
        let text = StateDir::create(root.path(), &id("c")).unwrap_err().to_string();
        assert_eq!(text, "container with id \"c\" already exists");
        StateDir::create(root.path(), &id("d")).unwrap();
        assert!(root.path().join("c/sandbox.lock").exists());
    }

    #[test]
    fn what_killed_commands_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        for name in ["c", "old"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join(LOCK), "").unwrap();
            fs::write(root.path().join(name).join(SOCKET), "").unwrap();
        }
        fs::create_dir(root.path().join("not-ours")).unwrap();
        fs::write(root.path().join("not-ours/lock"), "").unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::create_dir(root.path().join(STAGING)).unwrap();
        fs::write(root.path().join(STAGING).join(LOCK), "").unwrap();
        let state = StateDir::create(root.path(), &id("c")).unwrap();
        assert!(!root.path().join("old").exists());
        assert!(root.path().join("not-ours/lock").exists() && root.path().join("empty").exists());
        assert!(!root.path().join(STAGING).exists());
        StateDir::create(root.path(), &id("empty")).unwrap();
        let text = StateDir::create(root.path(), &id("not-ours")).unwrap_err().to_string();
        assert!(text.contains("not-ours: directory not empty"), "{text}");
        let _listener = state.listen().unwrap();
    }

    #[test]
    fn long_roots_and_ids_have_sockets() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("r".repeat(150));
        let state = StateDir::create(&long, &id(&"i".repeat(200))).unwrap();
        let _listener = state.listen().unwrap();
        UnixStream::connect(state.socket()).unwrap();
    }

    #[test]
    fn impossible_root_is_named() {
        let text = StateDir::create(Path::new("/dev/null/x"), &id("c")).unwrap_err().to_string();
        assert_eq!(text, "state directory /dev/null/x: not a directory; name another with --root");
    }

    #[test]
    fn many_at_once_get_one_id_once() {
        let root = tempfile::tempdir().unwrap();
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| StateDir::create(root.path(), &id("c")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
    }
}
