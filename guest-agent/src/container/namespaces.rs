//! Making the process in its namespaces: most by flags of clone3(2), two by what the parent's children get.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Linux;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

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
        // As in `KINDS`.
        opened.sort_by_key(|(flag, _)| *flag == libc::CLONE_NEWUSER);
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

    /// Enters them, but for the kinds that a process can only be born in. It is root of the guest by now.
    pub fn enter(&self) -> io::Result<()> {
        let entered = |flag: &i32| !matches!(*flag, libc::CLONE_NEWPID | libc::CLONE_NEWTIME);
        self.0.iter().filter(|(flag, _)| entered(flag)).try_for_each(|(flag, fd)| sys::setns(fd.as_fd(), *flag))
    }

    /// Whether one of this kind is to be joined.
    pub fn has(&self, flag: i32) -> bool {
        self.get(flag).is_some()
    }

    fn get(&self, flag: i32) -> Option<&OwnedFd> {
        self.0.iter().find(|(f, _)| *f == flag).map(|(_, fd)| fd)
    }
}

/// Whether the process cannot enter what is joined after it was born: its new pid namespace is to belong to the user namespace that it
/// joins, or its new user namespace would take the right from it.
pub fn born_inside(namespaces: &Namespaces) -> bool {
    let entered = |flag: i32| !matches!(flag, libc::CLONE_NEWPID | libc::CLONE_NEWTIME);
    match namespaces.joins(libc::CLONE_NEWUSER) {
        true => namespaces.is_new(libc::CLONE_NEWPID),
        false => namespaces.is_new(libc::CLONE_NEWUSER) && namespaces.joined.iter().any(|(flag, _)| entered(*flag)),
    }
}

/// Flags for clone3(2). Left to the child: cgroup, because it must be in its cgroup first; in a joined user namespace, all
/// that are to belong to that one; and with a user namespace IPC, as message queues belong to whoever makes it.
pub fn clone_flags(namespaces: &Namespaces) -> i32 {
    let mut flags = namespaces.new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME);
    if namespaces.joins(libc::CLONE_NEWUSER) {
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

/// Clones. Where something is joined, the child can be seen by others before it is one of them: so nobody there can look into it, at its
/// memory, its descriptors and its root directory, until execve(2).
pub fn clone(
    namespaces: &Namespaces,
    joined: &Joined,
    linux: Option<&Linux>,
    cgroup: BorrowedFd<'_>,
) -> Result<sys::Cloned, Error> {
    if joined.0.is_empty() {
        return clone_there(namespaces, joined, linux, cgroup);
    }
    let hide = |behavior| set_dumpable_behavior(behavior).map_err(step("protect the new process"));
    hide(DumpableBehavior::NotDumpable)?;
    let cloned = clone_there(namespaces, joined, linux, cgroup);
    if !matches!(cloned, Ok(sys::Cloned::Child)) {
        hide(DumpableBehavior::Dumpable)?;
    }
    cloned
}

/// A pid or time namespace cannot be entered by a process, only by its children: so the agent points its own children there for the
/// moment of the clone.
fn clone_there(
    namespaces: &Namespaces,
    joined: &Joined,
    linux: Option<&Linux>,
    cgroup: BorrowedFd<'_>,
) -> Result<sys::Cloned, Error> {
    let join = |fd, flag, name| Detour::join(fd, flag, name).map_err(step(format!("join the {name} namespace")));
    let inside = born_inside(namespaces);
    let pid = joined.get(libc::CLONE_NEWPID).filter(|_| !inside);
    let _pid = pid.map(|fd| join(fd, libc::CLONE_NEWPID, "pid")).transpose()?;
    let _time = match joined.get(libc::CLONE_NEWTIME) {
        Some(fd) => Some(join(fd, libc::CLONE_NEWTIME, "time")?),
        None if namespaces.is_new(libc::CLONE_NEWTIME) => Some(new_time(linux)?),
        None => None,
    };
    let flags = clone_flags(namespaces) as u64;
    let cloned = match inside {
        true => clone_inside(joined, flags, cgroup),
        false => sys::clone3(flags, Some(cgroup)),
    };
    let cloned = cloned.map_err(step("create the process"))?;
    if matches!(cloned, sys::Cloned::Child) {
        // The way back is the parent's.
        std::mem::forget((_pid, _time));
    }
    Ok(cloned)
}

/// By a process that enters what is joined, clones there, and ends: the child is the agent's all the same. Which one it is comes through a
/// pipe; the reaper takes the one between away.
fn clone_inside(joined: &Joined, flags: u64, cgroup: BorrowedFd<'_>) -> io::Result<sys::Cloned> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if matches!(sys::clone3(0, Some(cgroup))?, sys::Cloned::Parent(_)) {
        drop(write);
        let mut answer = [0; 8];
        File::from(read).read_exact(&mut answer)?;
        // The pid, and where there is none the error.
        let [a, b, c, d, error @ ..] = answer;
        let (pid, errno) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes(error));
        return Pid::from_raw(pid).map(sys::Cloned::Parent).ok_or_else(|| io::Error::from_raw_os_error(errno));
    }
    // It stays in the agent's pid namespace, whose numbers it tells.
    let pid = joined.get(libc::CLONE_NEWPID).map_or(Ok(()), |fd| sys::setns(fd.as_fd(), libc::CLONE_NEWPID));
    let entered = pid.and_then(|()| joined.enter());
    let cloned = entered.and_then(|()| sys::clone3(flags | libc::CLONE_PARENT as u64, None));
    let (pid, errno) = match cloned {
        Ok(sys::Cloned::Child) => return Ok(sys::Cloned::Child),
        Ok(sys::Cloned::Parent(pid)) => (pid.as_raw_pid(), 0),
        Err(error) => (0, error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let answer = [pid.to_le_bytes(), errno.to_le_bytes()].concat();
    let _ = rustix::io::write(&write, &answer);
    sys::exit(0)
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

#[cfg(test)]
#[path = "namespaces_tests.rs"]
mod tests;
