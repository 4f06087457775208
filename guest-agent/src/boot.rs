//! What PID 1 has to do before it can serve: a root to stand on, the kernel's file systems, cgroups.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::system::RebootCommand;

use crate::process::limits;
use crate::{cgroup, klog, sys};

/// Why the agent cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Started by hand, on some other machine.
    #[error("sandbox-agent is the init process of a micro-VM and runs only as PID 1")]
    NotInit,
    /// One of the steps failed.
    #[error("cannot {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn step<T, E: Into<io::Error>>(step: &'static str, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|source| Error::Step { step, source: source.into() })
}

const NO_SUID_DEV_EXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The least that is needed to listen: devices, descriptors 0 to 2, the log.
///
/// The agent leaves the initramfs for a tmpfs of its own, because pivot_root(2), which containers need, refuses to work
/// on the initial root; and it deletes itself there, so that no container can ever find and change it.
pub fn first() -> Result<(), Error> {
    let root = "/.root";
    make_dir(root);
    step("mount the root", mount("root", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755"))?;
    for dir in ["/.root/dev", "/.root/proc", "/.root/sys", "/.root/run", "/.root/tmp"] {
        make_dir(dir);
    }
    step("mount /dev", mount("dev", "/.root/dev", "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=755"))?;
    if Path::new("/bin/busybox").exists() {
        make_dir("/.root/bin");
        step("keep /bin", mount_bind("/bin", "/.root/bin"))?;
    }
    let _ = std::fs::remove_file("/init");
    step("change to the new root", rustix::process::chdir(root))?;
    step("move the new root", mount_move(".", "/"))?;
    step("change the root", rustix::process::chroot("."))?;
    step("change to the root", rustix::process::chdir("/"))?;
    let null = step("open /dev/null", rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))?;
    for fd in 0..3 {
        step("open descriptors 0 to 2", sys::dup_onto(null.as_fd(), fd))?;
    }
    if null.as_raw_fd() < 3 {
        let _ = null.into_raw_fd(); // it is one of them
    }
    klog::open();
    Ok(())
}

/// What the first container needs; done while the host answers the ready signal.
pub fn rest() -> Result<(), Error> {
    let proc_flags = NO_SUID_DEV_EXEC;
    step("mount /proc", mount("proc", "/proc", "proc", proc_flags, None::<&CStr>))?;
    klog::set_level(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    step("mount /sys", mount("sysfs", "/sys", "sysfs", proc_flags, None::<&CStr>))?;
    step("mount the cgroups", mount("cgroup", cgroup::ROOT, "cgroup2", proc_flags, None::<&CStr>))?;
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        make_dir(dir);
    }
    let pts = c"ptmxmode=666,mode=620,gid=5";
    step("mount /dev/pts", mount("devpts", "/dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, pts))?;
    let tmpfs = MountFlags::NOSUID | MountFlags::NODEV;
    step("mount /dev/shm", mount("shm", "/dev/shm", "tmpfs", tmpfs, c"mode=1777"))?;
    step("mount /run", mount("run", "/run", "tmpfs", tmpfs, c"mode=755"))?;
    step("mount /tmp", mount("tmp", "/tmp", "tmpfs", tmpfs, c"mode=1777"))?;
    step("mount /dev/mqueue", mount("mqueue", "/dev/mqueue", "mqueue", proc_flags, None::<&CStr>))?;
    step("enable the cgroup controllers", cgroup::enable_all(Path::new(cgroup::ROOT)))?;
    step("make the containers' cgroup", cgroup::make_common())?;
    step("raise the limit of descriptors", limits::raise_own())?;
    if let Err(error) = sys::loopback_up() {
        log::warn!("cannot bring the guest's loopback interface up: {error}");
    }
    // A new file's mode is what its creator asks for.
    rustix::process::umask(Mode::empty());
    Ok(())
}

fn make_dir(path: &str) {
    // Failure shows at the mount that follows.
    let _ = rustix::fs::mkdir(path, Mode::from_raw_mode(0o755));
}

/// Ends the virtual machine: a reset, which the monitor sees. Never returns.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::Restart);
    // Only without CAP_SYS_BOOT, which PID 1 has. The kernel panics when PID 1 ends, and panic=-1 is a reset too.
    sys::exit(1)
}
