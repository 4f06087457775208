//! System calls that rustix has no safe function for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How a tree of mounts is shown to the jail.
pub const SHARE_ATTRIBUTES: u64 =
    libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSYMFOLLOW;

fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Closes every descriptor but those in `keep`, which is sorted and holds none twice.
pub fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut first: libc::c_uint = 0;
    for fd in keep {
        let fd = fd.unsigned_abs();
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: takes no pointers. That nobody owns the closed descriptors is what `jail::enter` asks of its caller.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Makes `target` a copy of `fd`, without close-on-exec, and closes what `target` was.
pub fn duplicate_onto(fd: &OwnedFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: takes no pointers; `target` is standard input or output, which nobody in this process owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())
}

/// New mount, network, IPC, host name and cgroup namespaces.
pub fn unshare_namespaces() -> Result<(), Errno> {
    let flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    // SAFETY: takes no pointers; the descriptor table stays shared.
    check(unsafe { libc::unshare(flags) }.into())
}

/// A new mount namespace.
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: takes no pointers; the descriptor table stays shared.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())
}

/// Another process's mount namespace, for this process, which must have one thread.
pub fn enter_mounts(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes no pointers; the descriptor is open.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) }.into())
}

/// Sets `attributes` on the mount that `tree` stands for, and with `recursive` on all below it.
pub fn set_mount_attributes(tree: impl AsFd, attributes: u64, recursive: bool) -> Result<(), Errno> {
    set_attributes(tree, (attributes, 0), 0, recursive)
}

/// Takes `attributes` from the mount that `tree` stands for.
pub fn clear_mount_attributes(tree: impl AsFd, attributes: u64) -> Result<(), Errno> {
    set_attributes(tree, (0, attributes), 0, false)
}

/// Has the mount that `tree` stands for, which must not be attached yet, show the ids of a user namespace.
pub fn map_ids(tree: impl AsFd, namespace: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    set_attributes(tree, (libc::MOUNT_ATTR_IDMAP, 0), namespace.as_raw_fd() as u64, recursive)
}

fn set_attributes(
    tree: impl AsFd,
    (attr_set, attr_clr): (u64, u64),
    userns_fd: u64,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set, attr_clr, propagation: 0, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated string and `attr` is a mount_attr of the size given; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// A child in a user namespace of its own, which lives until [`end`](Self::end).
pub struct Namesake(Pid);

impl Namesake {
    /// Starts it. The process has one thread.
    pub fn new() -> Result<Self, Errno> {
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        let parent = std::process::id().cast_signed();
        // SAFETY: without CLONE_VM the child has a copy of all memory and, with no stack given, goes on where the parent does; it
        // makes a few system calls, which are async-signal-safe, until it is killed.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: takes numbers and changes what the kernel knows of this process. It ends with its parent, however that ends, whose
            // descriptors it has.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            // SAFETY: takes nothing and changes nothing. Another parent means that the first has ended before.
            while unsafe { libc::getppid() } == parent {
                // SAFETY: takes nothing and changes nothing.
                unsafe { libc::pause() };
            }
            // SAFETY: ends this process, without anything that is done at an end.
            unsafe { libc::_exit(1) };
        }
        check(pid)?;
        Pid::from_raw(pid as i32).map(Self).ok_or(Errno::SRCH)
    }

    /// Its files below /proc.
    pub fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.as_raw_nonzero()))
    }

    /// Ends it.
    pub fn end(self) {
        let _ = kill_process(self.0, Signal::KILL);
        let _ = retry_on_intr(|| waitpid(Some(self.0), WaitOptions::empty()));
    }
}
