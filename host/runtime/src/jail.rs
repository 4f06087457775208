//! The monitor's jail: after [`enter`] the process sees the container's own directories below `/share` and nothing else.
//!
//! What a guest that took over the monitor finds: a read-only root with `/share` in it, no `/proc`, no `/dev`, an empty network
//! namespace, no descriptor but its own, and, after [`drop_privileges`], the file capabilities that serving files takes. Nothing
//! it can reach in the shares is a device, and nothing there runs with set-user-ID on the host.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::control::Share;
use crate::error::Plain;

mod joined;
mod shares;
mod sys;
#[cfg(test)]
mod tests;

pub use joined::{JoinedShares, clear as clear_joined};

/// Where the shares are once [`enter`] has returned.
pub const ROOT: &str = "/share";

/// Descriptors that the guest's open files may take, where the host allows so many: the file server holds one for each file
/// that the guest knows.
const OPEN_FILES: u64 = 1 << 20;

/// What must be had from outside the jail.
#[derive(Debug)]
pub struct JailHandles {
    /// `/proc/self/fd` as a mount of its own: `..` stays in it. The file server reopens descriptors through it.
    pub proc_self_fd: File,
    /// The directory that holds the shares by their names.
    pub root: PathBuf,
}

/// Why the process is not in its jail. It must end then: it may be in a half-made one.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// close_range(2) or dup2(2) failed.
    #[error("cannot close inherited file descriptors: {}", plain(.0))]
    Descriptors(Errno),
    /// setrlimit(2) or prctl(2) failed.
    #[error("cannot set the process's limits: {}", plain(.0))]
    Limits(Errno),
    /// open_tree(2) of /proc/self/fd failed.
    #[error("cannot take hold of /proc/self/fd (is /proc mounted?): {}", plain(.0))]
    Proc(Errno),
    /// unshare(2) failed.
    #[error("cannot make namespaces (this needs CAP_SYS_ADMIN): {}", plain(.0))]
    Namespaces(Errno),
    /// A step of making the new root failed.
    #[error("cannot make the jail's root: {step}: {}", plain(errno))]
    Root {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// The name of a share is not one.
    #[error("bad share name {0:?}: it must be a relative path without `.` and `..`, not below or above another one")]
    Name(String),
    /// The source of a share cannot be opened.
    #[error("cannot open {}: {}", path.display(), plain(errno))]
    Source {
        /// The source.
        path: PathBuf,
        /// What the system said.
        errno: Errno,
    },
    /// The source of a share is a symbolic link.
    #[error("{} is a symbolic link: give the path that it points to", .0.display())]
    Symlink(PathBuf),
    /// The source of a share is a directory where a file was meant, or the other way round.
    #[error("{} is {} directory", path.display(), if *.directory { "not a" } else { "a" })]
    Kind {
        /// The source.
        path: PathBuf,
        /// Whether it was to be a directory.
        directory: bool,
    },
    /// A source cannot be mounted into the jail.
    #[error("cannot share {}: {step}: {}", path.display(), plain(errno))]
    Mount {
        /// The source.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// Capabilities or no_new_privs could not be set.
    #[error("cannot drop privileges: {}", plain(.0))]
    Privileges(Errno),
}

fn plain(errno: &Errno) -> String {
    Plain(&std::io::Error::from(*errno)).to_string()
}

/// Puts the process into its jail. Call it first of all, with a single thread and with CAP_SYS_ADMIN.
///
/// Closes every descriptor that is neither in `keep_fds` nor standard error: the caller must own nothing else that holds one.
/// Standard input and output, unless kept, become `/dev/null`. The working directory is [`ROOT`] afterwards.
///
/// # Errors
/// See [`JailError`]; the process must end then.
pub fn enter(shares: &[Share], keep_fds: &[RawFd]) -> Result<JailHandles, JailError> {
    close_descriptors(keep_fds)?;
    set_limits()?;
    sys::unshare_namespaces().map_err(JailError::Namespaces)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| JailError::Root { step: "making all mounts private", errno })?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let proc_self_fd = rustix::mount::open_tree(CWD, "/proc/self/fd", clone).map_err(JailError::Proc)?;
    shares::build_root(shares)?;
    Ok(JailHandles { proc_self_fd: File::from(proc_self_fd), root: PathBuf::from(ROOT) })
}

/// Leaves the calling thread, and all that it starts, the capabilities that serving files takes. Call it before the first
/// thread is started: capabilities are a thread's own.
///
/// Not among them: CAP_DAC_READ_SEARCH, with which open_by_handle_at(2) would open any file of a shared file system.
///
/// # Errors
/// [`JailError::Privileges`]; the process must end then.
pub fn drop_privileges() -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(JailError::Privileges)?;
    for number in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break, // past the kernel's last one
            Err(errno) => return Err(JailError::Privileges(errno)),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(JailError::Privileges)?;
    set_capabilities(FILE_CAPABILITIES)
}

/// Takes all capabilities from the calling thread: vCPU and device threads need none.
///
/// # Errors
/// [`JailError::Privileges`]; the thread must end then.
pub fn drop_thread_capabilities() -> Result<(), JailError> {
    set_capabilities(CapabilitySet::empty())
}

/// What the file server needs to act for the guest's users on files that are theirs.
const FILE_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

fn set_capabilities(set: CapabilitySet) -> Result<(), JailError> {
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(JailError::Privileges)
}

fn close_descriptors(keep_fds: &[RawFd]) -> Result<(), JailError> {
    let mut keep: Vec<RawFd> = keep_fds.iter().copied().chain([0, 1, 2]).filter(|fd| *fd >= 0).collect();
    keep.sort_unstable();
    keep.dedup();
    sys::close_all_but(&keep).map_err(JailError::Descriptors)?;
    let replaced: Vec<RawFd> = [0, 1].into_iter().filter(|fd| !keep_fds.contains(fd)).collect();
    if !replaced.is_empty() {
        let null = rustix::fs::open(Path::new("/dev/null"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(JailError::Descriptors)?;
        for fd in replaced {
            sys::duplicate_onto(&null, fd).map_err(JailError::Descriptors)?;
        }
    }
    Ok(())
}

fn set_limits() -> Result<(), JailError> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let raised = hard.map(|n| n.max(OPEN_FILES));
    let both = |n| Rlimit { current: n, maximum: n };
    // Beyond fs.nr_open, or without CAP_SYS_RESOURCE, the hard limit is what there is.
    rustix::process::setrlimit(Resource::Nofile, both(raised))
        .or_else(|_| rustix::process::setrlimit(Resource::Nofile, both(hard)))
        .map_err(JailError::Limits)?;
    // Guest memory does not go to a core file, nor is it open to the user's other processes.
    rustix::process::setrlimit(Resource::Core, both(Some(0))).map_err(JailError::Limits)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(JailError::Limits)
}
