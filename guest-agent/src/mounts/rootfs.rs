//! The container's root, from the empty mount namespace to the finished tree.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::fs::{Context, is_dev, mount, waits};
use super::resolve::{Kind, Root, proc_path};
use super::{Error, Prepared, devices, options};
use crate::spec::Plan;
use crate::sys::{self, MountAttr};

fn step<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|e| Error::Step { step, error: e.into() })
}

fn propagation(plan: &Plan) -> Result<Option<MountPropagationFlags>, Error> {
    let given = plan.spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_deref()).filter(|p| !p.is_empty());
    match given.map(options::root_propagation) {
        Some(None) => step("apply linux.rootfsPropagation", Err(Errno::INVAL)),
        other => Ok(other.flatten()),
    }
}

/// Mounts that are writable for as long as the root is built, and are to be read-only then.
pub struct Unsealed(Vec<OwnedFd>);

/// Mounts everything below root.path.
pub fn build(plan: &Plan, cgroup: &Path, prepared: &Prepared) -> Result<(Root, Unsealed), Error> {
    let linux = plan.spec.linux().as_ref();
    propagation(plan)?;
    // Nothing the container mounts may reach the guest's namespace. What is asked for the root holds once it is the root: a mount
    // with a shared parent cannot be moved, and one of an unbindable parent cannot be bound.
    let outward = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    step("change the propagation of /", rustix::mount::mount_change("/", outward))?;
    step("detach root.path", rustix::mount::mount_bind_recursive(plan.root(), plan.root()).map_err(io::Error::from))
        .map_err(|e| named_root(e, plan.root()))?;
    step("make root.path private", rustix::mount::mount_change(plan.root(), MountPropagationFlags::PRIVATE))?;
    let root = step("open root.path", Root::open(plan.root()))?;
    let own_cgroup_namespace = plan.namespaces.is_own(libc::CLONE_NEWCGROUP);
    let context = Context { root: &root, own_cgroup_namespace, cgroup, id_mapped: &prepared.id_mapped };
    let mut unsealed = Vec::new();
    for (index, entry) in plan.mounts.iter().enumerate() {
        mount(index, entry, &context)?;
        // Others may come over it: it is found by its descriptor. /dev waits longer, for the terminal.
        if waits(entry) && !is_dev(&entry.destination) {
            unsealed.push(step("find a mount again", root.get(&entry.destination))?);
        }
    }
    let asked = linux.and_then(|l| l.devices().as_deref()).unwrap_or_default();
    if !binds_dev(plan) {
        devices::create(&root, asked, plan.namespaces.is_own(libc::CLONE_NEWUSER), prepared.nodes.as_ref())?;
    }
    let cwd = plan.process.given.cwd();
    root.get_or_create(cwd, Kind::Directory).map_err(|error| Error::Path {
        action: "create process.cwd",
        path: cwd.clone(),
        error,
    })?;
    Ok((root, Unsealed(unsealed)))
}

/// Makes it the root directory. Descriptors from 3 up are the container's afterwards.
pub fn enter(plan: &Plan, root: Root, unsealed: Unsealed) -> Result<(), Error> {
    pivot(&root)?;
    for mount in &unsealed.0 {
        step("make a tmpfs read-only", read_only(mount))?;
    }
    if let Some(flags) = propagation(plan)? {
        // The root alone: what is mounted in it has what its own options say.
        let flags = flags.difference(MountPropagationFlags::REC);
        step("apply linux.rootfsPropagation", rustix::mount::mount_change("/", flags))?;
    }
    Ok(())
}

fn named_root(error: Error, path: &Path) -> Error {
    match error {
        Error::Step { error, .. } => Error::Path { action: "use as root", path: path.to_owned(), error },
        other => other,
    }
}

/// A /dev bound from elsewhere is taken as it is, as in runc.
fn binds_dev(plan: &Plan) -> bool {
    plan.mounts.iter().any(|m| (m.options.bind || m.fs_type == "bind") && is_dev(&m.destination))
}

/// Makes the container's root the root, and lets the guest's go.
fn pivot(root: &Root) -> Result<(), Error> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let old = step("open the old root", rustix::fs::open("/", flags, Mode::empty()))?;
    step("change to root.path", rustix::process::chdir(root.path()))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            // The old root now lies on top of the new one, at the same place.
            step("change to the old root", rustix::process::fchdir(&old))?;
            let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            step("detach the old root", rustix::mount::mount_change(".", slave))?;
            step("detach the old root", rustix::mount::unmount(".", UnmountFlags::DETACH))?;
        }
        // root.path is on the initial root, which cannot be pivoted from.
        Err(Errno::INVAL) => {
            step("move the new root", rustix::mount::mount_move(".", "/"))?;
            step("change the root", rustix::process::chroot("."))?;
        }
        Err(error) => return step("pivot to the new root", Err(error)),
    }
    step("change to the new root", rustix::process::chdir("/"))
}

/// What makes parts of the tree unwritable; after it, nothing more can be made in them.
pub fn seal(plan: &Plan) -> Result<(), Error> {
    if let Some(dev) = plan.mounts.iter().find(|m| waits(m) && is_dev(&m.destination)) {
        let flags = dev.options.flags | MountFlags::BIND;
        step("make /dev read-only", rustix::mount::mount_remount("/dev", flags, ""))?;
    }
    let linux = plan.spec.linux().as_ref();
    if plan.read_only() {
        set_read_only(Path::new("/")).map_err(|error| Error::Step { step: "make the root read-only", error })?;
    }
    for path in linux.iter().flat_map(|l| l.readonly_paths().iter().flatten()) {
        read_only_path(Path::new(path)).map_err(|error| Error::Path {
            action: "make read-only",
            path: path.into(),
            error,
        })?;
    }
    for path in linux.iter().flat_map(|l| l.masked_paths().iter().flatten()) {
        mask(Path::new(path)).map_err(|error| Error::Path { action: "mask", path: path.into(), error })?;
    }
    Ok(())
}

fn set_read_only(path: &Path) -> io::Result<()> {
    read_only(&rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_only(mount: &OwnedFd) -> io::Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    sys::mount_setattr(mount.as_fd(), false, &MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() })
}

fn open_if_there(path: &Path) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_only_path(path: &Path) -> io::Result<()> {
    let Some(fd) = open_if_there(path)? else { return Ok(()) };
    let at = proc_path_or(path, &fd);
    rustix::mount::mount_bind_recursive(&at, &at)?;
    set_read_only(path)
}

fn mask(path: &Path) -> io::Result<()> {
    let Some(fd) = open_if_there(path)? else { return Ok(()) };
    let at = proc_path_or(path, &fd);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind == FileType::Directory {
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::RDONLY, None::<&std::ffi::CStr>)?;
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        // A /dev/null that is something else would show what it should hide.
        let found = rustix::fs::fstat(&null)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice
            || found.st_rdev != rustix::fs::makedev(1, 3)
        {
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        rustix::mount::mount_bind(proc_path_or(Path::new("/dev/null"), &null), at)?;
    }
    Ok(())
}

/// By descriptor where the container has a /proc, else by path: from here on the container's root is the only one.
fn proc_path_or(path: &Path, fd: &OwnedFd) -> std::path::PathBuf {
    let by_fd = proc_path(fd.as_fd());
    if Path::new(&by_fd).exists() { by_fd.into() } else { path.to_owned() }
}
