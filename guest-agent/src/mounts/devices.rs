//! The container's /dev: the nodes every container has, those config.json asks for, and the links beside them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxIdMapping};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::Error;
use super::resolve::{Kind, Root, proc_path};
use crate::container::identity;
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

/// Where a node is for the moment in which a mount is made of it. The agent is one thread: nobody else looks.
const MOMENTARY: &str = "/dev/.node";

/// The devices that linux.devices asks for, as detached mounts of nodes that only the agent can make, with the owners that the container
/// sees as those asked for. Nothing where the container has no user namespace of its own and makes them itself.
pub fn prepare(plan: &Plan) -> Result<Vec<OwnedFd>, Error> {
    let Some(linux) = plan.spec.linux().as_ref().filter(|_| plan.namespaces.is_own(libc::CLONE_NEWUSER)) else {
        return Ok(Vec::new());
    };
    let outside = |mappings: &Option<Vec<LinuxIdMapping>>, id| identity::outside(mappings.as_deref(), id).unwrap_or(0);
    let one = |device: &LinuxDevice| {
        let node = node(device);
        let owner = (outside(linux.uid_mappings(), node.uid), outside(linux.gid_mappings(), node.gid));
        detached(&node, owner).map_err(|errno| Error::Path {
            action: "create the device",
            path: node.path.clone(),
            error: errno.into(),
        })
    };
    linux.devices().iter().flatten().map(one).collect()
}

fn detached(node: &Node, (uid, gid): (u32, u32)) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(node.mode);
    mknodat(CWD, MOMENTARY, node.kind, mode, node.device)?;
    let made = chmodat(CWD, MOMENTARY, mode, AtFlags::empty())
        .and_then(|()| chownat(CWD, MOMENTARY, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::empty()))
        .and_then(|()| open_tree(CWD, MOMENTARY, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC));
    unlinkat(CWD, MOMENTARY, AtFlags::empty())?;
    made
}

/// Makes all of it. With `bind_only` (in a user namespace, where mknod(2) is forbidden) those asked for are what [`prepare`] made, and the
/// others the guest's nodes.
pub fn create(root: &Root, asked: &[LinuxDevice], bind_only: bool, prepared: &[OwnedFd]) -> Result<(), Error> {
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
    for (index, node) in nodes.iter().enumerate() {
        let made = match prepared.get(index) {
            Some(mount) => put(root, node, mount),
            None => make(root, node, bind_only),
        };
        made.map_err(|error| Error::Path { action: "create the device", path: node.path.clone(), error })?;
    }
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
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(&parent, name, node.kind, mode, node.device) {
        Ok(()) => {
            chmodat(&parent, name, mode, AtFlags::empty())?; // whatever the umask
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            Ok(chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        // The share is no place for devices: it forbids to make them, or to open them.
        Err(Errno::PERM | Errno::ACCESS | Errno::EXIST | Errno::NOSYS | Errno::OPNOTSUPP) => {
            bind_from_guest(root, node)
        }
        Err(error) => Err(error.into()),
    }
}

/// Over a file made for it.
fn put(root: &Root, node: &Node, mount: &OwnedFd) -> io::Result<()> {
    let target = root.get_or_create(&node.path, Kind::File)?;
    let by_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &target, "", by_fd)?)
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
