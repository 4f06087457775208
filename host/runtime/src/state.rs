//! The state directory of a container, ROOT/ID: made by `create`, removed by `delete`.
//!
//! Directories get and lose their names under an exclusive lock on ROOT. `ROOT/ID/sandbox.lock` is locked by each command that
//! changes the container, and by its process until `create` has ended, so that one who waits for the lock finds nothing half made.
//! A container whose command was killed is abandoned ([`Record::is_abandoned`]): whoever makes a container sweeps those.

pub mod execs;
mod record;
mod remains;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

pub use record::{Record, Shown, Status};
pub use remains::{RemainsError, clear};

use crate::error::Plain;

/// Why a container's state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The ID breaks the rule.
    #[error("invalid container ID format: {0:?}; use up to {MAX_ID} of A-Z a-z 0-9 _ + - . and not \".\" or \"..\"")]
    Id(String),
    /// There is a container with this ID. Words that callers look for.
    #[error("container with given ID already exists")]
    Exists,
    /// There is none with this ID. Words that callers look for.
    #[error("container does not exist")]
    Unknown,
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
const EXEC_SOCKET: &str = "exec.sock";
const RECORD: &str = "state.json";
const NEW_RECORD: &str = "state.json.new";
const REASON: &str = "reason";

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

/// A container's state directory.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    path: PathBuf,
    /// Open on `path`, so that socket paths stay short however long ROOT and ID are.
    directory: File,
    /// The lock, while it is held.
    lock: Option<File>,
}

impl StateDir {
    /// Makes ROOT (if need be) and ROOT/ID, which is locked then, and sweeps what killed commands left.
    pub fn create(root: &Path, id: &ContainerId) -> Result<Self, StateError> {
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(at(root))?;
        let path = root.join(id.as_str());
        loop {
            let exclusive = lock_root(root).map_err(at(root))?;
            match sweep(root, &path).map_err(at(&path))? {
                Found::Nothing => {}
                Found::Container => return Err(StateError::Exists),
                Found::Busy(lock) => {
                    // A command is at work on it, maybe to remove it. Others may have their turn meanwhile.
                    drop(exclusive);
                    locked(&lock).map_err(at(&path))?;
                    continue;
                }
            }
            sweep_others(root);
            let (directory, lock) = make(root, &path).map_err(at(&path))?;
            return Ok(Self { root: root.to_path_buf(), path, directory, lock: Some(lock) });
        }
    }

    /// The directory of a container that was made before.
    pub fn open(root: &Path, id: &ContainerId) -> Result<Self, StateError> {
        let path = root.join(id.as_str());
        match File::open(&path) {
            Ok(directory) if path.join(LOCK).exists() => {
                Ok(Self { root: root.to_path_buf(), path, directory, lock: None })
            }
            Ok(_) => Err(StateError::Unknown),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StateError::Unknown),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// The names of the containers in ROOT.
    pub fn list(root: &Path) -> Result<Vec<ContainerId>, StateError> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at(root))?,
        };
        let named = entries.flatten().filter_map(|entry| ContainerId::new(entry.file_name().to_str()?).ok());
        let mut found: Vec<_> = named.filter(|id| root.join(id.as_str()).join(LOCK).exists()).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Waits until no other command is at work on the container, and keeps others from it until this is dropped.
    pub fn lock(&mut self) -> Result<(), StateError> {
        if self.lock.is_none() {
            // That of the directory which was opened: by its name another container may have come since.
            let lock = open_lock(&self.file(LOCK)).map_err(at(&self.path))?.ok_or(StateError::Unknown)?;
            locked(&lock).map_err(at(&self.path))?;
            // It may have been removed meanwhile.
            let links = lock.metadata().map_err(at(&self.path))?.nlink();
            if links == 0 {
                return Err(StateError::Unknown);
            }
            self.lock = Some(lock);
        }
        Ok(())
    }

    /// Lets other commands have their turn.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// The lock, while it is held: whoever has this open too holds it as well.
    pub fn held_lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What is kept of the container; nothing if its `create` has not come that far.
    pub fn read(&self) -> Result<Option<Record>, StateError> {
        read_record(&self.file(RECORD)).map_err(at(&self.path.join(RECORD)))
    }

    /// Keeps this of the container.
    pub fn write(&self, record: &Record) -> Result<(), StateError> {
        let write = || {
            let new = self.file(NEW_RECORD);
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(new, self.file(RECORD))
        };
        write().map_err(at(&self.path.join(RECORD)))
    }

    /// A short path to the socket, good in this process.
    pub fn socket(&self) -> PathBuf {
        self.file(SOCKET)
    }

    fn file(&self, name: &str) -> PathBuf {
        socket_in(self.directory.as_fd()).with_file_name(name)
    }

    /// Removes the directory, and with it the lock.
    pub fn remove(self) -> Result<(), StateError> {
        // Without the lock on ROOT the removal would race with a start that looks at a half-removed directory.
        let _exclusive = lock_root(&self.root).map_err(at(&self.root))?;
        discard(&self.root, &self.path).map_err(at(&self.path))
    }
}

/// A short path to the socket in an open state directory, good in this process.
pub fn socket_in(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// The socket of a container's proxy for the proxies of exec'd processes.
pub fn exec_socket_in(directory: BorrowedFd<'_>) -> PathBuf {
    socket_in(directory).with_file_name(EXEC_SOCKET)
}

/// What is kept of the container whose state directory is open; nothing where it cannot be read.
pub fn record_in(directory: BorrowedFd<'_>) -> Option<Record> {
    read_record(&socket_in(directory).with_file_name(RECORD)).ok().flatten()
}

/// Keeps why the container ended, where its own process does not tell.
pub fn keep_reason(directory: BorrowedFd<'_>, sentence: &str) -> io::Result<()> {
    let path = socket_in(directory).with_file_name(REASON);
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(sentence.as_bytes())
}

/// The socket of a container's state directory.
pub fn link_in(root: &Path, id: &str) -> PathBuf {
    root.join(id).join(SOCKET)
}

/// Has the way to the guest lead to another container's, whose guest it is.
pub fn lead_to(directory: BorrowedFd<'_>, root: &Path, owner: &str) -> io::Result<()> {
    std::os::unix::fs::symlink(root.join(owner).join(SOCKET), socket_in(directory))
}

/// Binds the socket on which a monitor takes connections to its guest.
pub fn listen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    UnixListener::bind(socket_in(directory)).map(OwnedFd::from)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Io { path, source }
}

/// Of all containers below ROOT, as far as they can be read.
pub fn records(root: &Path) -> impl Iterator<Item = Record> {
    let ids = StateDir::list(root).unwrap_or_default();
    let root = root.to_owned();
    ids.into_iter().filter_map(move |id| read_record(&root.join(id.as_str()).join(RECORD)).ok().flatten())
}

fn read_record(path: &Path) -> io::Result<Option<Record>> {
    match fs::read(path) {
        Ok(text) => {
            let mut record: Record = serde_json::from_slice(&text)?;
            record.reason = fs::read_to_string(path.with_file_name(REASON)).ok();
            Ok(Some(record))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_lock(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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
    execs::files(path).for_each(|file| drop(fs::remove_file(file)));
    for name in [SOCKET, EXEC_SOCKET, RECORD, NEW_RECORD, REASON, LOCK] {
        let _ = fs::remove_file(path.join(name));
    }
    fs::remove_dir(path)
}

fn lock_root(root: &Path) -> io::Result<File> {
    let file = File::open(root)?;
    locked(&file).map(|()| file)
}

fn locked(file: &File) -> io::Result<()> {
    Ok(retry_on_intr(|| flock(file, FlockOperation::LockExclusive))?)
}

/// What has a name that somebody wants.
enum Found {
    /// Nothing, by now.
    Nothing,
    /// A container that somebody may ask for.
    Container,
    /// A container that a command is at work on; this is its lock.
    Busy(File),
}

/// Removes a state directory if nobody will ask for it. ROOT is locked.
fn sweep(root: &Path, path: &Path) -> io::Result<Found> {
    if path.symlink_metadata().is_err() {
        return Ok(Found::Nothing);
    }
    let Some(lock) = open_lock(&path.join(LOCK))? else {
        // Not this program's: it may go if it is empty.
        return fs::remove_dir(path).map(|()| Found::Nothing);
    };
    let asked_for = |record: &Option<Record>| record.as_ref().is_some_and(|record| !record.is_abandoned());
    if asked_for(&read_record(&path.join(RECORD))?) {
        return Ok(Found::Container);
    }
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Found::Busy(lock)),
        Err(error) => return Err(error.into()),
    }
    // Only now nobody changes it.
    let record = read_record(&path.join(RECORD))?;
    if asked_for(&record) {
        return Ok(Found::Container);
    }
    record.as_ref().map_or(Ok(()), |record| clear(root, record)).map_err(io::Error::other)?;
    discard(root, path).map(|()| Found::Nothing)
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
mod tests;
