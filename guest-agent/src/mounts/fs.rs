//! The mounts of config.json, one after the other.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use super::Error;
use super::resolve::{Kind, Root, proc_path};
use crate::spec::MountPlan;
use crate::sys::{self, MountAttr};

/// Facts about the container that mounts depend on.
pub struct Context<'a> {
    /// Where to mount.
    pub root: &'a Root,
    /// Whether it has a cgroup namespace, and so sees only its own cgroup.
    pub own_cgroup_namespace: bool,
    /// The container's cgroup in the guest.
    pub cgroup: &'a Path,
    /// Copies of the sources of id-mapped mounts, by their place in the list.
    pub id_mapped: &'a [Option<OwnedFd>],
}

/// Makes one mount.
pub fn mount(index: usize, plan: &MountPlan, context: &Context<'_>) -> Result<(), Error> {
    if plan.options.remount {
        return remount(plan, context.root);
    }
    if plan.options.bind || plan.fs_type == "bind" {
        return bind(plan, context.root, context.id_mapped.get(index).and_then(Option::as_ref));
    }
    match plan.fs_type.as_str() {
        "cgroup" | "cgroup2" => cgroup(plan, context),
        "tmpfs" if plan.options.copy_up => copy_up(plan, context.root),
        "tmpfs" => tmpfs(plan, context.root),
        "proc" | "sysfs" => {
            if context.root.is_other_than_directory(&plan.destination) {
                return Err(Error::Ordinary { fs_type: plan.fs_type.clone(), target: plan.destination.clone() });
            }
            let target = target(context.root, &plan.destination, Kind::Directory)?;
            if plan.fs_type != "proc" {
                refuse_inside_proc(context.root, &target, false)?;
            }
            new_mount(plan, &plan.fs_type, context.root, target, None)
        }
        "" | "none" => Err(plan_error(plan, io::Error::from_raw_os_error(libc::ENODEV))),
        other => {
            let target = target(context.root, &plan.destination, Kind::Directory)?;
            refuse_inside_proc(context.root, &target, false)?;
            new_mount(plan, other, context.root, target, None)
        }
    }
}

fn plan_error(plan: &MountPlan, error: io::Error) -> Error {
    Error::Mount {
        source_path: plan.source.clone(),
        fs_type: plan.fs_type.clone(),
        target: plan.destination.clone(),
        error,
    }
}

fn target(root: &Root, path: &Path, kind: Kind) -> Result<OwnedFd, Error> {
    root.get_or_create(path, kind).map_err(|error| Error::Path { action: "create", path: path.to_owned(), error })
}

/// Whether the mount's `ro` has to wait until all is in it that belongs there: mount points of others, devices, the working directory. A
/// tmpfs has nothing of that from the start.
pub fn waits(plan: &MountPlan) -> bool {
    let options = &plan.options;
    let bind = options.bind || plan.fs_type == "bind";
    options.flags.contains(MountFlags::RDONLY)
        && !(bind || options.remount)
        && (plan.fs_type == "tmpfs" || is_dev(&plan.destination))
}

/// Whether it is the directory of the devices.
pub fn is_dev(destination: &Path) -> bool {
    Path::new("/").join(destination) == Path::new("/dev")
}

fn tmpfs(plan: &MountPlan, root: &Root) -> Result<(), Error> {
    let mode = hidden_mode(plan, root);
    let target = target(root, &plan.destination, Kind::Directory)?;
    refuse_inside_proc(root, &target, false)?;
    new_mount(plan, "tmpfs", root, target, mode)
}

/// As in runc: without a mode of its own a tmpfs has that of the directory it hides, if there was one.
fn hidden_mode(plan: &MountPlan, root: &Root) -> Option<String> {
    if plan.options.data.iter().any(|option| option.starts_with("mode=")) {
        return None;
    }
    let hidden = rustix::fs::fstat(root.get(&plan.destination).ok()?).ok()?;
    Some(format!("mode={:o}", hidden.st_mode & 0o7777))
}

fn new_mount(plan: &MountPlan, fs_type: &str, root: &Root, target: OwnedFd, more: Option<String>) -> Result<(), Error> {
    let data: Vec<&str> = plan.options.data.iter().chain(&more).map(String::as_str).collect();
    let data = CString::new(data.join(",")).unwrap_or_default();
    let data = (!data.is_empty()).then_some(data.as_c_str());
    let mut flags = plan.options.flags;
    if waits(plan) {
        flags.remove(MountFlags::RDONLY);
    }
    let source = if plan.source.as_os_str().is_empty() { Path::new(fs_type) } else { &plan.source };
    rustix::mount::mount(source, proc_path(target.as_fd()), fs_type, flags, data)
        .map_err(|e| plan_error(plan, e.into()))?;
    let mounted = root.get(&plan.destination).map_err(|e| plan_error(plan, e))?;
    after(plan, mounted, false)
}

/// Recursive attributes and propagation, for which the mount must exist.
fn after(plan: &MountPlan, mounted: OwnedFd, bind: bool) -> Result<(), Error> {
    let failed = |e: io::Error| plan_error(plan, e);
    if bind && plan.options.attr != MountAttr::default() {
        sys::mount_setattr(mounted.as_fd(), false, &plan.options.attr).map_err(failed)?;
    }
    if plan.options.recursive_attr != MountAttr::default() {
        sys::mount_setattr(mounted.as_fd(), true, &plan.options.recursive_attr).map_err(failed)?;
    }
    for flags in &plan.options.propagation {
        rustix::mount::mount_change(proc_path(mounted.as_fd()), *flags).map_err(|e| failed(e.into()))?;
    }
    Ok(())
}

/// mount(2) with MS_REMOUNT: of the file system, or with `bind` of the one mount, whose flags all become those given.
fn remount(plan: &MountPlan, root: &Root) -> Result<(), Error> {
    let failed = |e: io::Error| plan_error(plan, e);
    let mounted = root.get(&plan.destination).map_err(failed)?;
    refuse_inside_proc(root, &mounted, true)?;
    let bind = if plan.options.bind || plan.fs_type == "bind" { MountFlags::BIND } else { MountFlags::empty() };
    let data = plan.options.data.join(",");
    rustix::mount::mount_remount(proc_path(mounted.as_fd()), plan.options.flags | bind, data)
        .map_err(|e| failed(e.into()))?;
    after(plan, mounted, false)
}

fn bind(plan: &MountPlan, root: &Root, id_mapped: Option<&OwnedFd>) -> Result<(), Error> {
    let failed =
        |error: io::Error| Error::Bind { source_path: plan.source.clone(), target: plan.destination.clone(), error };
    let kind = if std::fs::metadata(&plan.source).map_err(failed)?.is_dir() { Kind::Directory } else { Kind::File };
    let target = target(root, &plan.destination, kind)?;
    refuse_inside_proc(root, &target, is_procfs(&plan.source))?;
    let at = proc_path(target.as_fd());
    let bound = match (id_mapped, plan.options.recursive) {
        (Some(tree), _) => {
            let by_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(tree, "", &target, "", by_fd)
        }
        (None, true) => rustix::mount::mount_bind_recursive(&plan.source, at),
        (None, false) => rustix::mount::mount_bind(&plan.source, at),
    };
    bound.map_err(|e| failed(e.into()))?;
    for below in &plan.options.below {
        // Being there makes it a mount of its own, with the flags that hold now. What hides under another mount cannot be reached.
        let _ = root.directory(&plan.destination.join(below));
    }
    let mounted = root.get(&plan.destination).map_err(failed)?;
    after(plan, mounted, true)
}

fn is_procfs(path: &Path) -> bool {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC)
}

/// Files of /proc that tools such as lxcfs replace; anything else there could fool the agent or the container.
const PROC_ALLOWED: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

fn refuse_inside_proc(root: &Root, target: &OwnedFd, procfs: bool) -> Result<(), Error> {
    let seen = root.seen_path(target.as_fd()).unwrap_or_default();
    if proc_allows(&seen, procfs) { Ok(()) } else { Err(Error::InsideProc(seen)) }
}

/// Whether something (a procfs or not) may be mounted at a path, which has no links left.
fn proc_allows(seen: &Path, procfs: bool) -> bool {
    match seen.strip_prefix("/proc") {
        Err(_) => true,
        Ok(below) if below.as_os_str().is_empty() => procfs,
        Ok(below) => PROC_ALLOWED.iter().any(|allowed| below == Path::new(allowed)),
    }
}

/// With a cgroup namespace a fresh mount shows the container's own cgroup as its root. Where the kernel refuses that, and
/// without the namespace, the part of the guest's hierarchy that belongs to the container is bound instead.
fn cgroup(plan: &MountPlan, context: &Context<'_>) -> Result<(), Error> {
    let target = target(context.root, &plan.destination, Kind::Directory)?;
    refuse_inside_proc(context.root, &target, false)?;
    let at = proc_path(target.as_fd());
    let no_data: Option<&std::ffi::CStr> = None;
    let fresh = match context.own_cgroup_namespace {
        true => rustix::mount::mount("cgroup", &at, "cgroup2", plan.options.flags, no_data).is_ok(),
        false => false,
    };
    if !fresh {
        rustix::mount::mount_bind(context.cgroup, &at).map_err(|e| plan_error(plan, e.into()))?;
    }
    let mounted = context.root.get(&plan.destination).map_err(|e| plan_error(plan, e))?;
    after(plan, mounted, !fresh)
}

/// A tmpfs with a copy of what it is mounted over.
fn copy_up(plan: &MountPlan, root: &Root) -> Result<(), Error> {
    let failed = |e: io::Error| plan_error(plan, e);
    let mode = hidden_mode(plan, root);
    let hidden = target(root, &plan.destination, Kind::Directory)?;
    refuse_inside_proc(root, &hidden, false)?;
    let staging = Staging::new().map_err(failed)?;
    let data: Vec<&str> = plan.options.data.iter().chain(&mode).map(String::as_str).collect();
    let data = CString::new(data.join(",")).unwrap_or_default();
    let flags = plan.options.flags.difference(MountFlags::RDONLY);
    rustix::mount::mount("tmpfs", &staging.path, "tmpfs", flags, Some(data.as_c_str()))
        .map_err(|e| failed(e.into()))?;
    let from = PathBuf::from(proc_path(hidden.as_fd()));
    let copied = copy_tree(&from, &staging.path, 0)
        .and_then(|()| rustix::mount::mount_move(&staging.path, proc_path(hidden.as_fd())).map_err(io::Error::from));
    if let Err(error) = copied {
        let _ = rustix::mount::unmount(&staging.path, UnmountFlags::DETACH);
        return Err(failed(error));
    }
    let mounted = root.get(&plan.destination).map_err(failed)?;
    after(plan, mounted, false)
}

/// A directory of the guest to mount on for a moment; mounting there is private to this process's namespace.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn new() -> io::Result<Staging> {
        let path = PathBuf::from(format!("/tmp/copy-up-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let at = Staging { path };
        // A mount cannot be moved out of a shared parent.
        let _ = rustix::mount::mount_change("/tmp", MountPropagationFlags::PRIVATE);
        Ok(at)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn copy_tree(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
    if depth > 256 {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        let meta = std::fs::symlink_metadata(&source)?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &copy)?;
        } else if kind.is_dir() {
            std::fs::create_dir(&copy)?;
            copy_tree(&source, &copy, depth + 1)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &copy)?;
        } else {
            let file_type = rustix::fs::FileType::from_raw_mode(meta.mode());
            let mode = rustix::fs::Mode::from_raw_mode(meta.mode());
            rustix::fs::mknodat(rustix::fs::CWD, &copy, file_type, mode, meta.rdev())?;
        }
        lchown(&copy, Some(meta.uid()), Some(meta.gid()))?;
        if !kind.is_symlink() {
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "fs_tests.rs"]
mod tests;
