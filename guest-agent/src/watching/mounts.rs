//! The mounts of a container that come from the host. Each is a file system of its own to the guest's kernel, which only the container's mount
//! namespace knows.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use agent_protocol::SHARE_DIR;
use rustix::fs::{Mode, OFlags};
use rustix::mount::OpenTreeFlags;
use rustix::process::Pid;

use super::fdinfo::{Handle, Object};
use crate::detour::Detour;
use crate::sys::{self, MountAttr};

/// A line of mountinfo, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    device: u32,
    root: String,
    point: PathBuf,
}

/// A shared file system, at a mount of our own: writable, whatever the container may do.
pub struct Mount {
    /// Its root, open for reading.
    pub root: OwnedFd,
    place: Place,
}

enum Place {
    /// What the agent has mounted: files are shared in it.
    All,
    /// That share's.
    Share(u16),
}

/// The device numbers of what a process sees of the host, but for the one that its root is on.
pub fn shared_devices(pid: Pid) -> HashSet<u32> {
    let lines = lines(pid);
    let root = lines.iter().rfind(|line| line.point == Path::new("/")).map(|line| line.device);
    lines.iter().map(|line| line.device).filter(|device| Some(*device) != root).collect()
}

fn lines(pid: Pid) -> Vec<Line> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", pid.as_raw_pid())).unwrap_or_default();
    parse(&text)
}

/// The lines of virtiofs.
fn parse(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let mut words = place.split_ascii_whitespace().skip(2);
        let (major, minor) = words.next()?.split_once(':')?;
        let device = device(major.parse().ok()?, minor.parse().ok()?);
        let (root, point) = (words.next()?, words.next()?);
        (kind.split_ascii_whitespace().next()? == "virtiofs").then(|| Line {
            device,
            root: root.to_owned(),
            point: PathBuf::from(unescaped(point)),
        })
    };
    text.lines().filter_map(line).collect()
}

/// mountinfo writes blanks, tabs, newlines and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// As the kernel has it inside.
fn device(major: u32, minor: u32) -> u32 {
    major << 20 | minor & 0xf_ffff
}

fn device_of(file: impl AsFd) -> io::Result<u32> {
    let number = rustix::fs::fstat(file)?.st_dev;
    Ok(device(rustix::fs::major(number), rustix::fs::minor(number)))
}

impl Mount {
    /// The file system with this number that a process sees, if one of these shares is in it.
    pub fn find(pid: Pid, device: u32, shares: &[String]) -> io::Result<Mount> {
        let all = open_root(Path::new(SHARE_DIR))?;
        if device_of(&all)? == device {
            return Ok(Mount { root: all, place: Place::All });
        }
        for line in lines(pid).iter().filter(|line| line.device == device && line.root == "/") {
            let tree = copy(pid, &line.point)?;
            if device_of(&tree)? != device {
                continue; // something else is mounted over it
            }
            let handle = sys::name_to_handle(tree.as_fd(), c"")?;
            for (share, name) in (0..).zip(shares) {
                let name = std::ffi::CString::new(name.as_str()).map_err(io::Error::other)?;
                if sys::name_to_handle(all.as_fd(), &name).is_ok_and(|other| other == handle) {
                    let attr = MountAttr { clear: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
                    sys::mount_setattr(tree.as_fd(), false, &attr)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let root = rustix::fs::openat(&tree, ".", flags, Mode::empty())?;
                    return Ok(Mount { root, place: Place::Share(share) });
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// An object of this file system that somebody holds, as by watching it.
    pub fn open(&self, handle: &Handle, flags: OFlags) -> io::Result<OwnedFd> {
        sys::open_by_handle(self.root.as_fd(), handle, (flags | OFlags::CLOEXEC).bits().cast_signed())
    }

    /// In which share an object is, and where there.
    pub fn path(&self, object: &Object, shares: &[String]) -> Option<(u16, Vec<u8>)> {
        use std::os::unix::ffi::OsStrExt;
        let file = self.open(&object.handle, OFlags::PATH).ok()?;
        let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).ok()?;
        match self.place {
            Place::Share(share) => Some((share, path.strip_prefix("/").ok()?.as_os_str().as_bytes().to_vec())),
            Place::All => {
                let name = path.strip_prefix(SHARE_DIR).ok()?;
                let found = (0..).zip(shares).find(|(_, share)| Path::new(share) == name);
                found.map(|(share, _)| (share, Vec::new()))
            }
        }
    }
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A copy of what is mounted there for the process.
fn copy(pid: Pid, point: &Path) -> io::Result<OwnedFd> {
    let namespace = fs::File::open(format!("/proc/{}/ns/mnt", pid.as_raw_pid()))?;
    let _there = Detour::join(&namespace, libc::CLONE_NEWNS, "mnt")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(rustix::mount::open_tree(rustix::fs::CWD, point, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_virtiofs_are_found() {
        let text = "30 25 0:28 / /rw\\040x/data rw,nosuid master:3 - virtiofs sandbox rw\n\
            31 25 0:26 /mounts/1 /etc/hosts rw - virtiofs sandbox rw\n\
            22 1 8:1 / / rw - ext4 /dev/vda rw\nbroken\n";
        let line = |device, root: &str, point: &str| Line { device, root: root.into(), point: point.into() };
        assert_eq!(parse(text), [line(28, "/", "/rw x/data"), line(26, "/mounts/1", "/etc/hosts")]);
        assert_eq!(device(8, 13), 0x80000d);
    }
}
