//! Making the process in its namespaces: most by flags of clone3(2), two by what the parent's children get.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Linux;
use rustix::process::Pid;

use super::{Error, step};
use crate::detour::Detour;
use crate::spec::Namespaces;
use crate::sys;

/// Namespaces that exist and are to be joined, opened while their paths can be reached.
pub struct Joined(pub Vec<(i32, OwnedFd)>);

/// In an order in which the agent, as root of the guest, may join them: the user namespace takes that right away.
const KINDS: [(i32, &str); 8] = [
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWNET, "net"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWTIME, "time"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWNS, "mnt"),
    (libc::CLONE_NEWUSER, "user"),
];

/// The file below /proc of a process's namespace of a kind, by its flag.
pub fn path_of(pid: Pid, flag: i32) -> Option<PathBuf> {
    let (_, name) = KINDS.into_iter().find(|(kind, _)| *kind == flag)?;
    Some(PathBuf::from(format!("/proc/{}/ns/{name}", pid.as_raw_pid())))
}

impl Joined {
    /// Opens all of them.
    pub fn open(namespaces: &Namespaces) -> Result<Joined, Error> {
        let mut opened = Vec::new();
        for (flag, path) in &namespaces.joined {
            let file = File::open(path).map_err(step::<io::Error>(format!("join the namespace {path:?}")))?;
            opened.push((*flag, OwnedFd::from(file)));
        }
        // The user namespace first: it decides what may be done to the others.
        opened.sort_by_key(|(flag, _)| *flag != libc::CLONE_NEWUSER);
        Ok(Joined(opened))
    }

    /// All in which a process is, and the agent is not.
    pub fn of_process(pid: Pid) -> Result<Joined, Error> {
        let mut opened = Vec::new();
        for (flag, name) in KINDS {
            let file = |of: &str| {
                let path = format!("/proc/{of}/ns/{name}");
                let file = File::open(&path).map_err(step::<io::Error>(format!("open {path}")))?;
                let id = rustix::fs::fstat(&file).map_err(step(format!("open {path}")))?.st_ino;
                Ok::<_, Error>((file, id))
            };
            let ((theirs, id), (_, own)) = (file(&pid.as_raw_pid().to_string())?, file("self")?);
            if id != own {
                opened.push((flag, OwnedFd::from(theirs)));
            }
        }
        Ok(Joined(opened))
    }

    /// Whether one of this kind is to be joined.
    pub fn has(&self, flag: i32) -> bool {
        self.get(flag).is_some()
    }

    fn get(&self, flag: i32) -> Option<&OwnedFd> {
        self.0.iter().find(|(f, _)| *f == flag).map(|(_, fd)| fd)
    }
}

/// Flags for clone3(2). Left to the child: cgroup, because it must be in its cgroup first; in a joined user namespace, all
/// that are to belong to that one; and with a user namespace IPC, as message queues belong to whoever makes it.
pub fn clone_flags(namespaces: &Namespaces) -> i32 {
    let mut flags = namespaces.new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME);
    if namespaces.joined.iter().any(|(flag, _)| *flag == libc::CLONE_NEWUSER) {
        flags &= libc::CLONE_NEWPID;
    }
    if namespaces.is_new(libc::CLONE_NEWUSER) {
        flags &= !libc::CLONE_NEWIPC;
    }
    flags
}

/// Flags for the child's own unshare(2), besides cgroup.
pub fn unshare_flags(namespaces: &Namespaces) -> i32 {
    namespaces.new & !clone_flags(namespaces) & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME)
}

/// Clones. A pid or time namespace cannot be entered by a process, only by its children: so the agent points its own
/// children there for the moment of the clone.
pub fn clone(
    namespaces: &Namespaces,
    joined: &Joined,
    linux: Option<&Linux>,
    cgroup: BorrowedFd<'_>,
) -> Result<sys::Cloned, Error> {
    let join = |fd, flag, name| Detour::join(fd, flag, name).map_err(step(format!("join the {name} namespace")));
    let _pid = joined.get(libc::CLONE_NEWPID).map(|fd| join(fd, libc::CLONE_NEWPID, "pid")).transpose()?;
    let _time = match joined.get(libc::CLONE_NEWTIME) {
        Some(fd) => Some(join(fd, libc::CLONE_NEWTIME, "time")?),
        None if namespaces.is_new(libc::CLONE_NEWTIME) => Some(new_time(linux)?),
        None => None,
    };
    let flags = clone_flags(namespaces) as u64;
    let cloned = sys::clone3(flags, Some(cgroup)).map_err(step("create the process"))?;
    if matches!(cloned, sys::Cloned::Child) {
        // The way back is the parent's.
        std::mem::forget((_pid, _time));
    }
    Ok(cloned)
}

/// The agent's children go to a new time namespace.
fn new_time(linux: Option<&Linux>) -> Result<Detour, Error> {
    let detour = Detour::begin(libc::CLONE_NEWTIME, "time").map_err(step("open the agent's namespaces"))?;
    sys::unshare(libc::CLONE_NEWTIME).map_err(step("create a time namespace"))?;
    for (clock, offset) in linux.iter().flat_map(|l| l.time_offsets().iter().flatten()) {
        let text = format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        std::fs::write("/proc/self/timens_offsets", &text)
            .map_err(step::<io::Error>(format!("set linux.timeOffsets {text:?}")))?;
    }
    Ok(detour)
}
