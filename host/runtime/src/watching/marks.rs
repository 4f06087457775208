//! What is watched on the host, by what the guest calls it.
//!
//! Paths come from the guest: they are resolved below the share's source, without links, and what is found there is marked, nothing else. So
//! the guest learns of files that it sees anyway.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use agent_protocol::watch::{Event, MAX_WATCHES, Place, event};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::events::{Change, Named};
use super::sys::{FAN_RENAME, FileId, Group, file_id};
use crate::control::Share;

/// Of a mark on a directory: what happens to what is in it counts, and to directories in it.
const FLAGS: u64 = libc::FAN_EVENT_ON_CHILD | libc::FAN_ONDIR;

/// The marks of one container.
pub struct Marks {
    group: Arc<Group>,
    /// By the guest's number.
    watches: HashMap<u32, Watch>,
    numbers: HashMap<FileId, u32>,
}

struct Watch {
    id: FileId,
    mask: u64,
    source: PathBuf,
    path: Vec<u8>,
}

impl Marks {
    /// None yet.
    pub fn new(group: Arc<Group>) -> Self {
        Marks { group, watches: HashMap::new(), numbers: HashMap::new() }
    }

    /// Watches what is at `path` in a share for the events of `mask`.
    pub fn add(&mut self, number: u32, share: &Share, path: &[u8], mask: u32) -> io::Result<()> {
        self.remove(number);
        if self.watches.len() >= MAX_WATCHES {
            return Err(io::Error::other(format!("more than {MAX_WATCHES} watches")));
        }
        let file = open(&share.source, path)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        let directory = kind == FileType::Directory;
        if fanotify(mask, directory, FAN_RENAME) & !FLAGS == 0 {
            return Ok(());
        }
        // Other kinds are links that were put in the way, or have no content of the host's.
        if !directory && kind != FileType::RegularFile {
            return Err(io::ErrorKind::NotFound.into());
        }
        let id = file_id(file.as_fd())?;
        // By two names: hard links, or shares of the same directory. The guest has one inode for them, or is told by the first.
        if self.numbers.contains_key(&id) {
            return Ok(());
        }
        let mask = self.mark(&file, directory, mask)?;
        let watch = Watch { id: id.clone(), mask, source: share.source.clone(), path: path.to_vec() };
        self.watches.insert(number, watch);
        self.numbers.insert(id, number);
        Ok(())
    }

    fn mark(&self, file: &OwnedFd, directory: bool, mask: u32) -> io::Result<u64> {
        let wanted = fanotify(mask, directory, FAN_RENAME);
        match self.group.mark(file.as_fd(), wanted) {
            Ok(()) => Ok(wanted),
            // Before Linux 5.17.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && wanted & FAN_RENAME != 0 => {
                let wanted = fanotify(mask, directory, libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO);
                self.group.mark(file.as_fd(), wanted).map(|()| wanted)
            }
            Err(error) => Err(error),
        }
    }

    /// Watches this no more.
    pub fn remove(&mut self, number: u32) {
        let Some(watch) = self.watches.remove(&number) else { return };
        self.numbers.remove(&watch.id);
        // One that was moved keeps its mark, and what that reports is nobody's; one that was removed has none any more.
        let file = open(&watch.source, &watch.path);
        if let Ok(file) = file
            && file_id(file.as_fd()).is_ok_and(|id| id == watch.id)
        {
            let _ = self.group.unmark(file.as_fd(), watch.mask);
        }
    }

    /// Watches nothing any more.
    pub fn clear(&mut self) {
        self.watches.clear();
        self.numbers.clear();
        let _ = self.group.clear();
    }

    /// What the guest is to be told of a change, if anything.
    pub fn event(&self, change: &Change) -> Option<Event> {
        let mut mask = change.mask;
        let place = |named: &Option<Named>| {
            let named = named.as_ref()?;
            let watch = *self.numbers.get(&named.directory)?;
            Some(Place { watch, name: named.name.clone() })
        };
        let (from, to) = (place(&change.named), place(&change.renamed));
        let (place, to) = match (from, to) {
            (Some(from), Some(to)) => (from, Some(to)),
            (Some(from), None) => {
                // A rename that leaves what is watched.
                if change.mask & event::MOVED_FROM != 0 && change.mask & event::MOVED_TO != 0 {
                    mask &= !event::MOVED_TO;
                }
                (from, None)
            }
            (None, Some(to)) => {
                mask &= !event::MOVED_FROM;
                (to, None)
            }
            (None, None) => {
                let watch = *self.numbers.get(change.file.as_ref()?)?;
                (Place { watch, name: Vec::new() }, None)
            }
        };
        if place.name.is_empty() {
            // Of the watched object itself, nothing else can be told.
            mask &= event::MODIFY | event::ATTRIB | event::CLOSE_WRITE | event::ISDIR;
        }
        (mask & event::REPORTED != 0).then_some(Event { mask, place, to })
    }
}

/// What fanotify is to report for a watch; `moves` stands for names that move.
fn fanotify(mask: u32, directory: bool, moves: u64) -> u64 {
    let content = libc::FAN_MODIFY | libc::FAN_ATTRIB | libc::FAN_CLOSE_WRITE;
    let names = libc::FAN_CREATE | libc::FAN_DELETE;
    let mut wanted = u64::from(mask) & (content | if directory { names } else { 0 });
    if mask & event::DELETE_SELF != 0 && !directory {
        // The number of names is one of a file's attributes. That the file itself is gone is never said: the monitor holds it.
        wanted |= libc::FAN_ATTRIB;
    }
    if directory && mask & (event::MOVED_FROM | event::MOVED_TO) != 0 {
        wanted |= moves;
    }
    if directory {
        wanted |= FLAGS;
    }
    wanted
}

/// What is at a path of the guest's below a share's source. The source was resolved when the container was made: links that are in its
/// path now were put there since, maybe by the guest.
fn open(source: &std::path::Path, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let source = rustix::fs::openat2(CWD, source, flags, Mode::empty(), no_links)?;
    if path.is_empty() {
        return Ok(source);
    }
    let below = no_links | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(&source, OsStr::from_bytes(path), flags, Mode::empty(), below)?)
}
