//! The jail's root: a small read-only tmpfs with the shares mounted below `/share`.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::{JailError, ROOT, sys};
use crate::control::{IdMap, ReadOnly, Share};

/// A share's tree of mounts, not attached to anything yet.
pub struct Tree<'s> {
    share: &'s Share,
    mounts: OwnedFd,
}

impl Tree<'_> {
    /// What it is of.
    pub fn share(&self) -> &Share {
        self.share
    }

    /// The copy.
    pub fn mounts(&self) -> &OwnedFd {
        &self.mounts
    }
}

/// Builds the root and moves the process into it.
pub fn build_root(shares: &[Share]) -> Result<(), JailError> {
    check_names(shares)?;
    // All sources first: the new root will hide a part of the old one.
    let trees = shares.iter().map(clone_source).collect::<Result<Vec<_>, _>>()?;
    let root = make_tmpfs(shares)?;
    for share in shares {
        make_mount_point(root.as_fd(), share)?;
    }
    // A mount must be attached before others can be put in it. /proc is a directory that is there: `enter` has used it.
    move_mount(&root, CWD, "/proc").map_err(at("attaching"))?;
    for tree in trees {
        move_mount(&tree.mounts, &root, &in_root(tree.share))
            .map_err(|errno| mount_error(tree.share, "attaching", errno))?;
    }
    sys::set_mount_attributes(&root, libc::MOUNT_ATTR_RDONLY, false).map_err(at("making it read-only"))?;
    change_root(&root)
}

/// Names are relative, and none lies in another: making its mount point would write into that share.
pub fn check_names(shares: &[Share]) -> Result<(), JailError> {
    let mut names: Vec<&Path> = Vec::with_capacity(shares.len());
    for share in shares {
        let path = Path::new(&share.name);
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        if share.name.is_empty() || share.name.contains('\0') || !plain {
            return Err(JailError::Name(share.name.clone()));
        }
        names.push(path);
    }
    // `Path` compares by components, so a name's descendants follow it directly.
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[1].starts_with(pair[0])) {
        Some(pair) => Err(JailError::Name(pair[1].display().to_string())),
        None => Ok(()),
    }
}

/// Takes a copy of a share's mounts, with what the jail asks of them.
pub fn clone_source(share: &Share) -> Result<Tree<'_>, JailError> {
    let path = &share.source;
    let fail = |errno| JailError::Source { path: path.clone(), errno };
    if let Some(options) = &share.overlay {
        // Over one of its own directories, until its copy is taken: nobody else sees this namespace.
        let mounted = rustix::mount::mount(
            "overlay",
            path,
            "overlay",
            MountFlags::empty(),
            &*CString::new(options.as_str()).unwrap_or_default(),
        );
        mounted.map_err(|errno| mount_error(share, "mounting the overlay", errno))?;
    }
    let source =
        rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&source).map_err(fail)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => return Err(JailError::Symlink(path.clone())),
        kind if (kind == FileType::Directory) != share.directory => {
            return Err(JailError::Kind { path: path.clone(), directory: share.directory });
        }
        _ => {}
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, share.recursive);
    let mounts = rustix::mount::open_tree(&source, "", flags)
        .map_err(|errno| mount_error(share, "copying its mounts", errno))?;
    if share.overlay.is_some() {
        rustix::mount::unmount(path, UnmountFlags::DETACH)
            .map_err(|errno| mount_error(share, "taking the overlay away", errno))?;
    }
    if let Some(map) = &share.id_map {
        let mapped = user_namespace(map).and_then(|namespace| sys::map_ids(&mounts, namespace.as_fd(), map.recursive));
        mapped.map_err(|errno| mount_error(share, "mapping its ids", errno))?;
    }
    let (top, all) = match share.readonly {
        ReadOnly::Nowhere => (0, 0),
        ReadOnly::Top => (libc::MOUNT_ATTR_RDONLY, 0),
        ReadOnly::All => (0, libc::MOUNT_ATTR_RDONLY),
    };
    sys::set_mount_attributes(&mounts, sys::SHARE_ATTRIBUTES | all, share.recursive)
        .and_then(|()| sys::set_mount_attributes(&mounts, sys::SHARE_ATTRIBUTES | top, false))
        .map_err(|errno| mount_error(share, "setting mount attributes", errno))?;
    Ok(Tree { share, mounts })
}

/// A user namespace with these ids, in which nobody is.
fn user_namespace(map: &IdMap) -> Result<OwnedFd, Errno> {
    let namesake = sys::Namesake::new()?;
    let made = fs::write(namesake.file("uid_map"), &map.uid)
        .and_then(|()| fs::write(namesake.file("gid_map"), &map.gid))
        .and_then(|()| File::open(namesake.file("ns/user")));
    namesake.end();
    made.map(OwnedFd::from).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Mount points for containers that join the micro-VM later, and the directories above.
const LATER: usize = 16_384;

/// A tmpfs that has room for the mount points and nothing more.
fn make_tmpfs(shares: &[Share]) -> Result<OwnedFd, JailError> {
    let inodes = 2 + LATER + shares.iter().map(|s| Path::new(&s.name).components().count()).sum::<usize>();
    let configure = || {
        let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&fs, "size", "64k")?;
        rustix::mount::fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
        rustix::mount::fsconfig_set_string(&fs, "mode", "0755")?;
        rustix::mount::fsconfig_create(&fs)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    let root = configure().map_err(at("mounting a tmpfs"))?;
    rustix::fs::mkdirat(&root, relative(ROOT), Mode::from_raw_mode(0o755)).map_err(at("making /share"))?;
    Ok(root)
}

/// Makes what a share is mounted on, with the directories above.
pub fn make_mount_point(root: BorrowedFd<'_>, share: &Share) -> Result<(), JailError> {
    let fail = |errno| mount_error(share, "making its mount point", errno);
    let path = in_root(share);
    let path = Path::new(&path);
    let parents = path.ancestors().skip(1).filter(|p| p.components().count() > 1).collect::<Vec<_>>();
    for parent in parents.into_iter().rev() {
        make_directory(root, parent).map_err(fail)?;
    }
    if share.directory {
        make_directory(root, path).map_err(fail)
    } else {
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(root, path, FileType::RegularFile, mode, 0).map_err(fail)
    }
}

fn make_directory(root: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Attaches a tree.
pub fn move_mount(mount: &OwnedFd, to: impl AsFd, path: &str) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
    rustix::mount::move_mount(mount, "", to, path, flags)
}

/// Makes `root` the root, lets go of the old one, and goes to [`ROOT`].
fn change_root(root: &OwnedFd) -> Result<(), JailError> {
    rustix::process::fchdir(root).map_err(at("entering it"))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("detaching the old root"))?,
        // The old root is the kernel's initial ramfs, which cannot be moved: cover it. Without CAP_SYS_CHROOT and
        // CAP_SYS_ADMIN, which `drop_privileges` takes, there is no way back to it.
        Err(Errno::INVAL) => {
            move_mount(root, CWD, "/").map_err(at("covering the old root"))?;
            rustix::process::chroot(".").map_err(at("chroot"))?;
        }
        Err(errno) => {
            return Err(JailError::Root { step: "pivot_root", errno });
        }
    }
    rustix::process::chdir(ROOT).map_err(at("entering /share"))
}

/// Where a share is, from the jail's root.
pub fn in_root(share: &Share) -> String {
    format!("{}/{}", relative(ROOT), share.name)
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// A step that failed.
pub fn at(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Root { step, errno }
}

/// A share that cannot be mounted.
pub fn mount_error(share: &Share, step: &'static str, errno: Errno) -> JailError {
    JailError::Mount { path: share.source.clone(), step, errno }
}
