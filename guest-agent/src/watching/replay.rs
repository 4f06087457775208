//! Does again what the host has done, so that the guest's kernel tells of it. The file server knows by the user that no file is to be
//! touched ([`replay_uid`]); errors mean that the next event has made this one obsolete.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_protocol::watch::{Event, Place, event, replay_uid};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::process::Uid;

use super::mounts::Mount;
use super::watches::{Watch, Watches};

/// A directory that is never there: what leaves what is watched goes to it, and what comes there comes from it.
const ELSEWHERE: &str = ".sandbox-elsewhere";

/// Does events again.
pub struct Replay<'a> {
    watches: &'a Watches,
}

impl<'a> Replay<'a> {
    /// On what is watched.
    pub fn new(watches: &'a Watches) -> Self {
        Replay { watches }
    }

    /// All of them, in order.
    pub fn all(&self, events: &[Event]) {
        for event in events {
            let _ = self.one(event);
        }
    }

    fn one(&self, event: &Event) -> io::Result<()> {
        let Event { mask, place, to } = event;
        let Some((watch, mount)) = self.watches.get(place.watch) else { return Ok(()) };
        if place.name.is_empty() {
            return touch_object(watch, &mount, *mask);
        }
        let directory = directory(watch, &mount)?;
        let name = Name { directory: directory.as_fd(), name: name(place), is_directory: mask & event::ISDIR != 0 };
        // Made and removed, or the other way: the last state says it.
        let both = mask & event::CREATE != 0 && mask & event::DELETE != 0;
        let removed_first = both && name.stat().is_ok();
        if removed_first {
            self.remove(watch, &mount, &name);
        }
        if mask & event::CREATE != 0 {
            let _ = name.make();
        }
        let _ = name.touch(*mask);
        if mask & (event::MOVED_FROM | event::MOVED_TO) != 0 {
            self.refresh(watch, &mount, &name);
            let to = to.as_ref().and_then(|to| Some((self.watches.get(to.watch)?, to)));
            if let Some(((to_watch, to_mount), to)) = to {
                let directory = self::directory(to_watch, &to_mount)?;
                let to = Name { directory: directory.as_fd(), name: self::name(to), ..name };
                if to_watch.object.device == watch.object.device {
                    return name.rename(&to);
                }
                // Nothing moves from one file system to another.
                let _ = name.rename_elsewhere(true);
                return to.rename_elsewhere(false);
            }
            name.rename_elsewhere(mask & event::MOVED_FROM != 0)?;
        }
        if mask & event::DELETE != 0 && !removed_first {
            self.remove(watch, &mount, &name);
        }
        Ok(())
    }

    fn remove(&self, watch: &Watch, mount: &Mount, name: &Name<'_>) {
        self.refresh(watch, mount, name);
        let _ = name.remove();
    }

    /// What has lost its name and is watched itself: once the kernel knows that it has no name left and nobody has it open, it says that it is
    /// gone.
    fn refresh(&self, watch: &Watch, mount: &Mount, name: &Name<'_>) {
        let path = match watch.path.is_empty() {
            true => name.name.as_os_str().as_bytes().to_vec(),
            false => [&watch.path, b"/".as_slice(), name.name.as_os_str().as_bytes()].concat(),
        };
        if let Some(itself) = self.watches.at(watch.share, &path) {
            let file = mount.open(&itself.object.handle, OFlags::PATH);
            let _ = file.and_then(|file| stat(file.as_fd(), Path::new("")));
        }
    }
}

/// A directory that is watched. Once the kernel has forgotten the name of one it does not find it by its handle any more; at its path it does.
fn directory(watch: &Watch, mount: &Mount) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match mount.open(&watch.object.handle, flags) {
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
            let path = Path::new(std::ffi::OsStr::from_bytes(&watch.path));
            let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            act_as(replay_uid::TOUCH, || {
                Ok(rustix::fs::openat2(&mount.root, path, flags | OFlags::CLOEXEC, Mode::empty(), below)?)
            })
        }
        result => result,
    }
}

fn name(place: &Place) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(&place.name))
}

/// A name in a directory, of a directory or of anything else.
#[derive(Clone, Copy)]
struct Name<'a> {
    directory: BorrowedFd<'a>,
    name: &'a Path,
    is_directory: bool,
}

impl Name<'_> {
    fn user(&self) -> u32 {
        if self.is_directory { replay_uid::DIRECTORY } else { replay_uid::FILE }
    }

    fn stat(&self) -> io::Result<Statx> {
        act_as(replay_uid::TOUCH, || stat(self.directory, self.name))
    }

    /// Has the kernel forget what it knows of the name.
    fn forget(&self) {
        let _ = act_as(replay_uid::DROP, || Ok(rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU)?));
    }

    fn make(&self) -> io::Result<()> {
        act_as(replay_uid::MAKE, || match self.is_directory {
            true => Ok(rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU)?),
            false => {
                let mode = Mode::RUSR | Mode::WUSR;
                Ok(rustix::fs::mknodat(self.directory, self.name, FileType::RegularFile, mode, 0)?)
            }
        })
    }

    fn remove(&self) -> io::Result<()> {
        self.forget();
        let flags = if self.is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        act_as(self.user(), || Ok(rustix::fs::unlinkat(self.directory, self.name, flags)?))
    }

    fn rename(&self, to: &Name<'_>) -> io::Result<()> {
        self.forget();
        to.forget();
        act_as(self.user(), || Ok(rustix::fs::renameat(self.directory, self.name, to.directory, to.name)?))
    }

    /// To where nobody watches, or from there.
    fn rename_elsewhere(&self, away: bool) -> io::Result<()> {
        self.forget();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let elsewhere: OwnedFd =
            act_as(replay_uid::DIRECTORY, || Ok(rustix::fs::openat(self.directory, ELSEWHERE, flags, Mode::empty())?))?;
        let there = Name { directory: elsewhere.as_fd(), name: Path::new("x"), ..*self };
        let (from, to) = if away { (self, &there) } else { (&there, self) };
        let moved = act_as(self.user(), || Ok(rustix::fs::renameat(from.directory, from.name, to.directory, to.name)?));
        drop(elsewhere);
        Name { name: Path::new(ELSEWHERE), ..*self }.forget();
        moved
    }

    fn touch(&self, mask: u32) -> io::Result<()> {
        if mask & (event::MODIFY | event::ATTRIB | event::CLOSE_WRITE) == 0 {
            return Ok(());
        }
        act_as(replay_uid::TOUCH, || {
            let known = touch(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW, mask)?;
            if mask & event::CLOSE_WRITE != 0 && is_file(&known) {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                drop(rustix::fs::openat(self.directory, self.name, flags, Mode::empty())?);
            }
            Ok(())
        })
    }
}

/// The watched object itself.
fn touch_object(watch: &Watch, mount: &Mount, mask: u32) -> io::Result<()> {
    let handle = &watch.object.handle;
    let known = act_as(replay_uid::TOUCH, || {
        let object = mount.open(handle, OFlags::PATH)?;
        let known = touch(object.as_fd(), Path::new(""), AtFlags::EMPTY_PATH, mask)?;
        if mask & event::CLOSE_WRITE != 0 && is_file(&known) {
            drop(mount.open(handle, OFlags::WRONLY | OFlags::NONBLOCK)?);
        }
        Ok(known)
    })?;
    if known.stx_nlink > 0 || watch.path.is_empty() {
        return Ok(());
    }
    // It is not there any more: the kernel says so once it has forgotten the name.
    let path = Path::new(std::ffi::OsStr::from_bytes(&watch.path));
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory =
        act_as(replay_uid::TOUCH, || Ok(rustix::fs::openat2(&mount.root, above, flags, Mode::empty(), below)?))?;
    Name { directory: directory.as_fd(), name: Path::new(name), is_directory: false }.forget();
    Ok(())
}

fn is_file(known: &Statx) -> bool {
    FileType::from_raw_mode(known.stx_mode.into()) == FileType::RegularFile
}

/// What the host says now. The kernel drops what it has cached of the content when that has changed.
fn stat(directory: BorrowedFd<'_>, name: &Path) -> io::Result<Statx> {
    let empty = if name.as_os_str().is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let flags = empty | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    Ok(rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?)
}

/// Sets times to what they are: of change alone it counts as a change of content, both as one of attributes.
fn touch(directory: BorrowedFd<'_>, name: &Path, flags: AtFlags, mask: u32) -> io::Result<Statx> {
    let known = stat(directory, name)?;
    let time = |time: rustix::fs::StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    let (access, change) = (time(known.stx_atime), time(known.stx_mtime));
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    for (bit, last_access) in [(event::MODIFY, omitted), (event::ATTRIB, access)] {
        if mask & bit != 0 {
            let times = Timestamps { last_access, last_modification: change };
            rustix::fs::utimensat(directory, name, &times, flags)?;
        }
    }
    Ok(known)
}

/// One of [`replay_uid`]'s users for a moment. Capabilities stay.
fn act_as<T>(user: u32, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::from_raw(user), Uid::ROOT)?;
    let done = act();
    // Root's own identity can always be had again; as another user nothing more may be done.
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_err() {
        crate::sys::exit(1);
    }
    done
}
