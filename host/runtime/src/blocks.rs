//! Block devices of the host that a container gets: entries of linux.devices of type `b`, which docker writes for `--device /dev/sdb`.
//!
//! The threat: the configuration of a privileged container lists all that the host's /dev holds, its disks among it, and allows all of it by
//! one rule. So only a device that a rule of linux.resources.devices allows by its own numbers is given to the guest, which is what a caller
//! writes for a device that somebody has named.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use agent_protocol::MAX_BLOCK_DEVICES;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};
use rustix::fs::{Mode, OFlags, ioctl_blksszget};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::control::Disk;
use crate::error::Plain;

/// Why a block device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There are not as many places in a VM.
    #[error("linux.devices has {0} block devices of the host; a micro-VM can have {MAX_BLOCK_DEVICES}: leave some out")]
    TooMany(usize),
    /// The micro-VM runs already.
    #[error(
        "linux.devices[{index}] {}: a container that lives in another one's micro-VM cannot have a block device of the host: give it to the first of them, or share no namespace", .path.display()
    )]
    Joined {
        /// Which of the list.
        index: usize,
        /// Its path in the container.
        path: PathBuf,
    },
    /// There is the device, but no node.
    #[error(
        "linux.devices[{index}] {}: the host's /dev has no node for its block device {major}:{minor}: make {} with mknod", .path.display(), .node.display()
    )]
    NoNode {
        /// Which of the list.
        index: usize,
        /// Its path in the container.
        path: PathBuf,
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
        /// Where the node should be.
        node: PathBuf,
    },
    /// It cannot be opened.
    #[error("linux.devices[{index}] {}: cannot open the host's block device {}: {}", .path.display(), .node.display(), Plain(.source))]
    Open {
        /// Which of the list.
        index: usize,
        /// Its path in the container.
        path: PathBuf,
        /// Where it is on the host.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A block device that a configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Which of linux.devices: the first with these numbers.
    pub index: usize,
    /// In the container.
    pub path: PathBuf,
    /// The host's.
    pub major: u32,
    /// The host's.
    pub minor: u32,
    /// What the rules let the container do with it: letters of `rwm`, `r` or `w` among them.
    pub access: String,
}

/// The block devices that a configuration gives to the container. Nothing is looked at but the configuration.
pub fn of(spec: &Spec) -> Result<Vec<BlockDevice>, BlockError> {
    let Some(linux) = spec.linux() else { return Ok(Vec::new()) };
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    let mut found: Vec<BlockDevice> = Vec::new();
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let Some((major, minor)) = numbers(device) else { continue };
        if found.iter().any(|known| (known.major, known.minor) == (major, minor)) {
            continue;
        }
        if let Some(access) = access(rules, major, minor) {
            found.push(BlockDevice { index, path: device.path().clone(), major, minor, access });
        }
    }
    if found.len() > MAX_BLOCK_DEVICES { Err(BlockError::TooMany(found.len())) } else { Ok(found) }
}

/// Those of a container that is to live in another one's micro-VM.
pub fn refuse(devices: &[BlockDevice]) -> Result<(), BlockError> {
    let first = devices.first().map(|first| BlockError::Joined { index: first.index, path: first.path.clone() });
    first.map_or(Ok(()), Err)
}

fn numbers(device: &LinuxDevice) -> Option<(u32, u32)> {
    let numbers = (u32::try_from(device.major()).ok()?, u32::try_from(device.minor()).ok()?);
    (device.typ() == LinuxDeviceType::B).then_some(numbers)
}

/// What the rules allow; nothing unless one of them allows something to this very device.
fn access(rules: &[LinuxDeviceCgroup], major: u32, minor: u32) -> Option<String> {
    let (wanted, mut named, mut allowed) = ([major, minor].map(i64::from), false, [false; 3]);
    for rule in rules {
        let of_all = !matches!(rule.typ(), Some(LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U));
        let given = [rule.major(), rule.minor()].map(|number| number.filter(|number| *number >= 0));
        let fits = given.iter().zip(wanted).all(|(given, wanted)| given.is_none_or(|given| given == wanted));
        let of_it = rule.typ() == Some(LinuxDeviceType::B) && fits;
        if !of_all && !of_it {
            continue;
        }
        named |= of_it && rule.allow() && given == wanted.map(Some);
        // As in the guest: what is said of all devices is said of all accesses.
        let letters = rule.access().as_deref().filter(|_| !of_all).unwrap_or("rwm");
        for (allowed, letter) in allowed.iter_mut().zip(['r', 'w', 'm']) {
            if letters.contains(letter) {
                *allowed = rule.allow();
            }
        }
    }
    let letters = ['r', 'w', 'm'].into_iter().zip(allowed).filter_map(|(letter, allowed)| allowed.then_some(letter));
    let usable = named && (allowed[0] || allowed[1]);
    usable.then(|| letters.collect())
}

/// A block device that is open, and what the monitor is told of it.
#[derive(Debug)]
pub struct Opened {
    /// The device.
    pub file: File,
    /// What it is.
    pub disk: Disk,
}

/// Opens them. One that the host does not have is left out: its node in the container then leads to nothing, as with runc.
pub fn open(devices: &[BlockDevice]) -> Result<Vec<Opened>, BlockError> {
    devices.iter().filter_map(|device| open_one(device).transpose()).collect()
}

fn open_one(device: &BlockDevice) -> Result<Option<Opened>, BlockError> {
    let (index, path, major, minor) = (device.index, &device.path, device.major, device.minor);
    let about = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let Some(name) = kernels_name(&about) else {
        log::warn!("linux.devices[{index}] {}: the host has no block device {major}:{minor}", path.display());
        return Ok(None);
    };
    let usual = Path::new("/dev").join(name);
    // Where the host calls it otherwise, the container most often does too.
    let found = [&usual, path].into_iter().find_map(|node| Some((node, handle(node, major, minor)?)));
    let Some((node, handle)) = found else {
        return Err(BlockError::NoNode { index, path: path.clone(), major, minor, node: usual });
    };
    let read_only = !device.access.contains('w') || is_one(&about.join("ro"));
    let open = |read_only: bool| {
        let mode = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let itself = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let file = File::from(rustix::fs::open(itself, mode | OFlags::CLOEXEC, Mode::empty())?);
        let block_size = ioctl_blksszget(&file)?;
        let disk = Disk { major, minor, access: device.access.clone(), read_only, block_size };
        Ok(Opened { file, disk })
    };
    let asked = format!("linux.devices[{index}] {}: the host's block device {}", path.display(), node.display());
    let opened = match open(read_only) {
        // A kernel without BLK_DEV_WRITE_MOUNTED keeps all writers off a mounted disk, a container's of runc's too.
        Err(Errno::BUSY) if !read_only => {
            log::warn!("{asked} is in use on the host: the container can only read it");
            open(true)
        }
        opened => opened,
    };
    match opened {
        Ok(opened) => Ok(Some(opened)),
        // A drive without a disk, a network device that nothing is connected to.
        Err(error @ (Errno::NOMEDIUM | Errno::NXIO)) => {
            log::warn!("{asked} has nothing in it: {}", Plain(&error.into()));
            Ok(None)
        }
        Err(source) => Err(BlockError::Open { index, path: path.clone(), node: node.clone(), source: source.into() }),
    }
}

/// What the kernel calls the device: where its node is below /dev.
fn kernels_name(about: &Path) -> Option<String> {
    let facts = fs::read_to_string(about.join("uevent")).ok()?;
    facts.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
}

fn is_one(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim_end() == "1")
}

/// The node at `path` if it is this device's; opened without opening the device.
fn handle(path: &Path, major: u32, minor: u32) -> Option<File> {
    let handle = File::from(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?);
    let metadata = handle.metadata().ok()?;
    let is_it = metadata.file_type().is_block_device() && metadata.rdev() == rustix::fs::makedev(major, minor);
    is_it.then_some(handle)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn devices(devices: Value, rules: Value) -> Result<Vec<BlockDevice>, BlockError> {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"devices": devices, "resources": {"devices": rules}}});
        of(&serde_json::from_value(spec).unwrap())
    }

    fn block(path: &str, minor: u32) -> Value {
        json!({"path": path, "type": "b", "major": 8, "minor": minor})
    }

    fn allow(minor: u32, access: &str) -> Value {
        json!({"allow": true, "type": "b", "major": 8, "minor": minor, "access": access})
    }

    fn deny_all() -> Value {
        json!({"allow": false, "access": "rwm"})
    }

    #[test]
    fn a_device_that_a_rule_names_is_given() {
        let other = json!({"path": "/dev/null", "type": "c", "major": 8, "minor": 1});
        let list = json!([other, block("/dev/a", 1), block("/dev/b", 2), block("/dev/a2", 1)]);
        let found = devices(list, json!([deny_all(), allow(1, "rw"), allow(3, "rwm")])).unwrap();
        let expected = BlockDevice { index: 1, path: "/dev/a".into(), major: 8, minor: 1, access: "rw".into() };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn privileged_containers_get_no_disks() {
        let list = json!([block("/dev/sda", 0), block("/dev/sda1", 1)]);
        let all = json!({"allow": true, "access": "rwm"});
        let every_disk = json!({"allow": true, "type": "b", "access": "rwm"});
        let every_partition = json!({"allow": true, "type": "b", "major": 8, "minor": -1, "access": "rwm"});
        for rules in [json!([all]), json!([every_disk]), json!([every_partition]), json!([]), Value::Null] {
            assert_eq!(devices(list.clone(), rules.clone()).unwrap(), [], "{rules}");
        }
    }

    #[test]
    fn the_last_rule_counts() {
        let access = |rules: Value| {
            let found = devices(json!([block("/dev/a", 1)]), rules).unwrap();
            found.first().map(|device| device.access.clone())
        };
        let read = Some("r".to_string());
        let deny_write = json!({"allow": false, "type": "b", "major": 8, "access": "w"});
        assert_eq!(access(json!([allow(1, "r")])), read);
        assert_eq!(access(json!([deny_all(), allow(1, "rw"), deny_write])), read);
        assert_eq!(access(json!([allow(1, "rwm"), deny_all()])), None);
        assert_eq!(access(json!([deny_all(), allow(1, "m")])), None);
        assert_eq!(access(json!([{"allow": true, "access": "r"}, allow(1, "r")])), Some("rwm".to_string()));
        let without_letters = json!({"allow": true, "type": "b", "major": 8, "minor": 1});
        assert_eq!(access(json!([deny_all(), without_letters])), Some("rwm".to_string()));
    }

    #[test]
    fn too_many_and_joined_ones_are_refused() {
        let list: Vec<Value> = (0..8).map(|minor| block("/dev/x", minor)).collect();
        let rules: Vec<Value> = (0..8).map(|minor| allow(minor, "rw")).collect();
        let text = devices(json!(list), json!(rules)).unwrap_err().to_string();
        assert!(text.starts_with("linux.devices has 8 block devices of the host; a micro-VM can have 7"), "{text}");
        let found = devices(json!(list[..7]), json!(rules)).unwrap();
        assert!(refuse(&found).unwrap_err().to_string().starts_with("linux.devices[0] /dev/x: a container that lives"));
        assert!(refuse(&[]).is_ok());
    }

    #[test]
    fn what_the_host_does_not_have_is_left_out() {
        let device = BlockDevice { index: 0, path: "/dev/x".into(), major: 4000, minor: 1, access: "rw".into() };
        assert_eq!(open(&[device]).unwrap().len(), 0);
        assert!(handle(Path::new("/dev/null"), 1, 3).is_none(), "it is no block device");
        assert!(handle(Path::new("/dev/gone"), 1, 3).is_none());
    }
}
