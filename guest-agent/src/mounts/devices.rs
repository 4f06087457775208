//! The container's /dev: the nodes every container has, those config.json asks for, and the links beside them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxIdMapping};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};

use super::Error;
use super::resolve::{Kind, Root, proc_path};
use crate::mappings;
use crate::spec::Plan;

/// A node to make.
struct Node {
    path: PathBuf,
    kind: FileType,
    device: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Name and target, in /dev.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Where the container's process has [`prepare`]'s file system for a moment. It is its own mount namespace's, and holds nothing it needs.
const MOMENTARY: &str = "/tmp";

/// A file system, mounted nowhere, with the devices that linux.devices asks for as `0`, `1`, …: only the agent can make nodes that work. They
/// have the owners that the container sees as those asked for. None where the container has no user namespace of its own and makes
/// its nodes itself.
pub fn prepare(plan: &Plan) -> Result<Option<OwnedFd>, Error> {
    let linux = plan.spec.linux().as_ref().filter(|_| plan.namespaces.is_own(libc::CLONE_NEWUSER));
    let Some((linux, asked)) = linux.and_then(|linux| Some((linux, linux.devices().as_ref()?))) else {
        return Ok(None);
    };
    if asked.is_empty() {
        return Ok(None);
    }
    let failed = |error: Errno| Error::Step { step: "make a file system for devices", error: error.into() };
    let nodes = file_system().map_err(failed)?;
    let outside = |list: &Option<Vec<LinuxIdMapping>>, id| mappings::outside(list.as_deref(), id).unwrap_or(0);
    for (index, device) in asked.iter().enumerate() {
        let node = node(device);
        let owner = (outside(linux.uid_mappings(), node.uid), outside(linux.gid_mappings(), node.gid));
        make_node(&nodes, OsStr::new(&index.to_string()), &node, owner).map_err(|errno| Error::Path {
            action: "create the device",
            path: node.path.clone(),
            error: errno.into(),
        })?;
    }
    Ok(Some(nodes))
}

fn file_system() -> Result<OwnedFd, Errno> {
    let new = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&new, "mode", "0755")?;
    fsconfig_create(&new)?;
    fsmount(&new, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

fn make_node(directory: &OwnedFd, name: &OsStr, node: &Node, (uid, gid): (u32, u32)) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(node.mode);
    mknodat(directory, name, node.kind, mode, node.device)?;
    chmodat(directory, name, mode, AtFlags::empty())?; // whatever the umask
    chownat(directory, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}

/// Shows them for as long as it lives.
struct Shown;

impl Shown {
    fn new(nodes: &OwnedFd) -> Result<Shown, Errno> {
        move_mount(nodes, "", CWD, MOMENTARY, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map(|()| Shown)
    }

    /// Puts one of them over a file made for it.
    fn put(&self, index: usize, root: &Root, node: &Node) -> io::Result<()> {
        let target = root.get_or_create(&node.path, Kind::File)?;
        Ok(rustix::mount::mount_bind(format!("{MOMENTARY}/{index}"), proc_path(target.as_fd()))?)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(MOMENTARY, UnmountFlags::DETACH);
    }
}

/// Makes all of it. With `bind_only` (in a user namespace, where mknod(2) is forbidden) those asked for are what [`prepare`] made, and the
/// others the guest's nodes.
pub fn create(root: &Root, asked: &[LinuxDevice], bind_only: bool, prepared: Option<&OwnedFd>) -> Result<(), Error> {
    let mut nodes: Vec<Node> = asked.iter().map(node).collect();
    for (path, major, minor) in DEFAULTS {
        if !nodes.iter().any(|n| n.path == Path::new(path)) {
            let device = makedev(major, minor);
            nodes.push(Node {
                path: path.into(),
                kind: FileType::CharacterDevice,
                device,
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
    let shown = prepared.map(Shown::new).transpose();
    let shown = shown.map_err(|errno| Error::Step { step: "show the devices", error: errno.into() })?;
    for (index, node) in nodes.iter().enumerate() {
        let made = match shown.as_ref().filter(|_| index < asked.len()) {
            Some(shown) => shown.put(index, root, node),
            None => make(root, node, bind_only),
        };
        made.map_err(|error| Error::Path { action: "create the device", path: node.path.clone(), error })?;
    }
    drop(shown);
    links(root)
}

fn node(device: &LinuxDevice) -> Node {
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => FileType::CharacterDevice,
    };
    let path = device.path();
    Node {
        // Relative ones are meant from the root.
        path: Path::new("/").join(path),
        kind,
        device: makedev(device.major() as u32, device.minor() as u32),
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    }
}

fn make(root: &Root, node: &Node, bind_only: bool) -> io::Result<()> {
    let (parent, Some(name)) = (root.parent(&node.path)?, node.path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let is_it = |s: &rustix::fs::Stat| FileType::from_raw_mode(s.st_mode) == node.kind && s.st_rdev == node.device;
    if statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| is_it(&s)) {
        return Ok(());
    }
    if bind_only {
        return bind_from_guest(root, node);
    }
    match make_node(&parent, name, node, (node.uid, node.gid)) {
        Ok(()) => Ok(()),
        // The share is no place for devices: it forbids to make them, or to open them.
        Err(Errno::PERM | Errno::ACCESS | Errno::EXIST | Errno::NOSYS | Errno::OPNOTSUPP) => {
            bind_from_guest(root, node)
        }
        Err(error) => Err(error.into()),
    }
}

/// The guest's own node of that name is put over a file made for it.
fn bind_from_guest(root: &Root, node: &Node) -> io::Result<()> {
    let meta = rustix::fs::stat(&node.path)?;
    if meta.st_rdev != node.device {
        return Err(io::Error::from_raw_os_error(libc::ENXIO));
    }
    let target = root.get_or_create(&node.path, Kind::File)?;
    Ok(rustix::mount::mount_bind(&node.path, proc_path(target.as_fd()))?)
}

fn links(root: &Root) -> Result<(), Error> {
    let failed = |path: &str| {
        let path = PathBuf::from(path);
        move |error: io::Error| Error::Path { action: "create the link", path, error }
    };
    for (name, target) in LINKS {
        link(root, name, target).map_err(failed(name))?;
    }
    if root.get(Path::new("/proc/kcore")).is_ok() {
        link(root, "/dev/core", "/proc/kcore").map_err(failed("/dev/core"))?;
    }
    // The container's own instance, and not whatever the image holds.
    let parent = root.parent(Path::new("/dev/ptmx")).map_err(failed("/dev/ptmx"))?;
    match unlinkat(&parent, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed("/dev/ptmx")(error.into())),
    }
    link(root, "/dev/ptmx", "pts/ptmx").map_err(failed("/dev/ptmx"))
}

fn link(root: &Root, path: &str, target: &str) -> io::Result<()> {
    let path = Path::new(path);
    let (parent, Some(name)) = (root.parent(path)?, path.file_name()) else { return Ok(()) };
    match symlinkat(target, &parent, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
