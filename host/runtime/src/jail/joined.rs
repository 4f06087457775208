//! Shares that come later: those of a container that joins the micro-VM of another one. They are put into that monitor's jail from outside,
//! by a process that enters its mount namespace, and are taken out again when this is dropped.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, UnmountFlags};

use super::shares::{at, check_names, clone_source, in_root, make_mount_point, mount_error, move_mount};
use super::{JailError, ROOT, sys};
use crate::control::Share;
use crate::mountinfo;

/// Of directories below a container's place: `mounts/0` and no more.
const DEEPEST: usize = 8;

/// Shares in another process's jail.
#[derive(Debug)]
pub struct JoinedShares {
    /// The jail's root, but writable.
    root: OwnedFd,
    /// Mount points below ROOT, in the order in which they were made.
    mounted: Vec<PathBuf>,
    /// Directories that were made for them.
    directories: Vec<PathBuf>,
}

impl JoinedShares {
    /// Puts `shares` into the jail of the process whose mount namespace this is. This process must have one thread; it stays in that
    /// mount namespace.
    ///
    /// # Errors
    /// See [`JailError`]; what was mounted by then is taken out.
    pub fn attach(shares: &[Share], namespace: &OwnedFd) -> Result<Self, JailError> {
        check_names(shares)?;
        // Overlays are mounted for a moment, where nobody sees it.
        sys::unshare_mounts().map_err(JailError::Namespaces)?;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(at("making all mounts private"))?;
        let trees = shares.iter().map(clone_source).collect::<Result<Vec<_>, _>>()?;
        let root = enter(namespace)?;
        let mut attached = JoinedShares { root, mounted: Vec::new(), directories: Vec::new() };
        for tree in &trees {
            attached.remember_directories(tree.share());
            make_mount_point(attached.root.as_fd(), tree.share())?;
            let path = in_root(tree.share());
            let point = rustix::fs::open(Path::new("/").join(&path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| mount_error(tree.share(), "opening its mount point", errno))?;
            move_mount(tree.mounts(), &point, "").map_err(|errno| mount_error(tree.share(), "attaching", errno))?;
            attached.mounted.push(PathBuf::from(path));
        }
        Ok(attached)
    }

    fn remember_directories(&mut self, share: &Share) {
        let path = PathBuf::from(in_root(share));
        let root = ROOT.trim_start_matches('/');
        let above: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .filter(|p| *p != Path::new(root) && p.starts_with(root))
            .map(PathBuf::from)
            .collect();
        for directory in above.into_iter().rev() {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
    }
}

/// Enters another process's mount namespace. Gives the jail's root, without what is mounted in it, but writable.
fn enter(namespace: &OwnedFd) -> Result<OwnedFd, JailError> {
    sys::enter_mounts(namespace.as_fd()).map_err(JailError::Namespaces)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let root = rustix::mount::open_tree(CWD, "/", clone).map_err(at("copying it"))?;
    sys::clear_mount_attributes(&root, libc::MOUNT_ATTR_RDONLY).map_err(at("making its copy writable"))?;
    Ok(root)
}

/// Takes out of a jail what is left there below `place`, a directory of the share, by a process that was killed. `mounts` is the
/// mountinfo of the jail's process, and `namespace` its mount namespace, in which this thread stays.
///
/// # Errors
/// See [`JailError`].
pub fn clear(place: &str, mounts: &str, namespace: &OwnedFd) -> Result<(), JailError> {
    let place = Path::new(ROOT).join(place);
    // A thread that shares its root directory with others cannot enter a mount namespace.
    sys::unshare_mounts().map_err(JailError::Namespaces)?;
    let root = enter(namespace)?;
    let mut points: Vec<_> = mounts.lines().filter_map(mountinfo::parse).map(|entry| entry.mount_point).collect();
    points.retain(|point| point.starts_with(&place));
    points.sort_unstable();
    for point in points {
        // Those below another one have gone with it.
        match rustix::mount::unmount(&point, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(at("taking a share out")(errno)),
        }
    }
    let left = place.strip_prefix("/").unwrap_or(&place);
    remove(&root, left, DEEPEST);
    // Others may have theirs beside it.
    let _ = left.parent().map(|above| rustix::fs::unlinkat(&root, above, AtFlags::REMOVEDIR));
    Ok(())
}

/// Mount points and the directories above them, on the jail's own file system: nothing is mounted in this copy of it.
fn remove(root: &OwnedFd, path: &Path, deepest: usize) {
    if rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) == Err(Errno::NOTDIR) {
        let _ = rustix::fs::unlinkat(root, path, AtFlags::empty());
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let entries = rustix::fs::openat(root, path, flags, Mode::empty()).and_then(Dir::new);
    let Some(entries) = entries.ok().filter(|_| deepest > 0) else { return };
    for name in entries.flatten().map(|entry| entry.file_name().to_bytes().to_vec()) {
        if name != b"." && name != b".." {
            remove(root, &path.join(OsStr::from_bytes(&name)), deepest - 1);
        }
    }
    let _ = rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR);
}

impl Drop for JoinedShares {
    /// Whoever still has a file of theirs open keeps it.
    fn drop(&mut self) {
        for path in self.mounted.drain(..).rev() {
            let _ = rustix::mount::unmount(Path::new("/").join(&path), UnmountFlags::DETACH);
            if rustix::fs::unlinkat(&self.root, &path, AtFlags::REMOVEDIR) == Err(Errno::NOTDIR) {
                let _ = rustix::fs::unlinkat(&self.root, &path, AtFlags::empty());
            }
        }
        for directory in self.directories.drain(..).rev() {
            // Others may have theirs below it.
            let _ = rustix::fs::unlinkat(&self.root, &directory, AtFlags::REMOVEDIR);
        }
    }
}
