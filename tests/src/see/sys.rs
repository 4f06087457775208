//! System calls that no library wraps, each with arguments that change nothing.

use std::ffi::c_long;
use std::io;

/// A system call and arguments with which it does nothing but say whether it is allowed.
pub struct Call {
    /// Its name.
    pub name: &'static str,
    number: c_long,
    arguments: [usize; 3],
}

const NONE: [usize; 3] = [0, 0, 0];
const BAD: usize = usize::MAX;

const fn call(name: &'static str, number: c_long, arguments: [usize; 3]) -> Call {
    Call { name, number, arguments }
}

/// Calls that profiles and missing capabilities forbid. Addresses are null or not the process's, descriptors are not open, and
/// commands do not exist.
pub const CALLS: &[Call] = &[
    call("acct", libc::SYS_acct, [1, 0, 0]),
    call("add_key", libc::SYS_add_key, NONE),
    call("bpf", libc::SYS_bpf, [BAD, 0, 0]),
    call("chroot", libc::SYS_chroot, NONE),
    call("clock_settime", libc::SYS_clock_settime, [0, 0, 0]),
    call("clone3", libc::SYS_clone3, NONE),
    call("close_range", libc::SYS_close_range, [1000, 999, 0]),
    call("delete_module", libc::SYS_delete_module, NONE),
    call("faccessat2", libc::SYS_faccessat2, NONE),
    call("fsopen", libc::SYS_fsopen, NONE),
    call("get_mempolicy", libc::SYS_get_mempolicy, NONE),
    call("init_module", libc::SYS_init_module, NONE),
    call("io_uring_setup", libc::SYS_io_uring_setup, NONE),
    call("ioperm", libc::SYS_ioperm, [0, 0, 0]),
    call("iopl", libc::SYS_iopl, [0, 0, 0]),
    call("kcmp", libc::SYS_kcmp, [1, 1, 100]),
    call("kexec_load", libc::SYS_kexec_load, [0, 100, 0]),
    call("keyctl", libc::SYS_keyctl, [1000, 0, 0]),
    call("mbind", libc::SYS_mbind, NONE),
    call("mount", libc::SYS_mount, NONE),
    call("mount_setattr", libc::SYS_mount_setattr, NONE),
    call("move_pages", libc::SYS_move_pages, [1, 0, 0]),
    call("name_to_handle_at", libc::SYS_name_to_handle_at, NONE),
    call("open_by_handle_at", libc::SYS_open_by_handle_at, NONE),
    call("open_tree", libc::SYS_open_tree, NONE),
    call("perf_event_open", libc::SYS_perf_event_open, NONE),
    call("personality", libc::SYS_personality, [0xffff_ffff, 0, 0]),
    call("personality of 32 bits", libc::SYS_personality, [0x0020_0008, 0, 0]),
    call("pidfd_open", libc::SYS_pidfd_open, NONE),
    call("pivot_root", libc::SYS_pivot_root, NONE),
    call("process_vm_readv", libc::SYS_process_vm_readv, NONE),
    call("ptrace", libc::SYS_ptrace, [BAD, 1, 0]),
    call("quotactl", libc::SYS_quotactl, NONE),
    call("reboot", libc::SYS_reboot, NONE),
    call("request_key", libc::SYS_request_key, NONE),
    call("set_mempolicy", libc::SYS_set_mempolicy, [100, 0, 0]),
    call("setdomainname", libc::SYS_setdomainname, [1, BAD, 0]),
    call("sethostname", libc::SYS_sethostname, [1, BAD, 0]),
    call("setns", libc::SYS_setns, [BAD, 0, 0]),
    call("settimeofday", libc::SYS_settimeofday, [1, 0, 0]),
    call("socket of AF_VSOCK", libc::SYS_socket, [40, 100, 0]),
    call("socket of AF_PACKET", libc::SYS_socket, [17, 100, 0]),
    call("statx", libc::SYS_statx, NONE),
    call("swapon", libc::SYS_swapon, NONE),
    call("sync_file_range", libc::SYS_sync_file_range, [BAD, 0, 0]),
    call("syslog", libc::SYS_syslog, [10, 0, 0]),
    call("umount2", libc::SYS_umount2, NONE),
    call("unshare", libc::SYS_unshare, NONE),
    call("unshare of a user namespace and one that is none", libc::SYS_unshare, [0x1000_0001, 0, 0]),
    call("userfaultfd", libc::SYS_userfaultfd, [BAD, 0, 0]),
    call("no call (600)", 600, NONE),
    call("no call (100000)", 100_000, NONE),
    call("mkdirat", libc::SYS_mkdirat, NONE),
    call("getcpu", libc::SYS_getcpu, NONE),
    call("sched_setscheduler", libc::SYS_sched_setscheduler, [0, 100, 1]),
    call("mq_unlink", libc::SYS_mq_unlink, NONE),
];

impl Call {
    /// What the kernel answers.
    pub fn answer(&self) -> String {
        let [a, b, c] = self.arguments;
        match raw(self.number, [a, b, c, 0, 0]) {
            Ok(_) => "allowed".to_owned(),
            Err(error) => errno_name(error.raw_os_error().unwrap_or(0)),
        }
    }
}

/// Only for calls that change no memory but buffers that outlive the call.
fn raw(number: c_long, arguments: [usize; 5]) -> io::Result<c_long> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the calls of this file either write no memory or write to a buffer whose address and length they are given.
    match unsafe { libc::syscall(number, a, b, c, d, e) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A number's name, as far as the reports need names.
pub fn errno_name(number: i32) -> String {
    let name = match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EXDEV => "EXDEV",
        libc::ELOOP => "ELOOP",
        _ => return format!("errno {number}"),
    };
    name.to_owned()
}

/// A prctl(2) that only asks.
pub fn prctl(option: i32) -> String {
    value(raw(libc::SYS_prctl, [option as usize, 0, 0, 0, 0]))
}

/// prctl(2) PR_CAP_AMBIENT_IS_SET and the like need no more than this: an option and one argument.
pub fn prctl_with(option: i32, argument: usize) -> String {
    value(raw(libc::SYS_prctl, [option as usize, argument, 0, 0, 0]))
}

/// The scheduling policy.
pub fn scheduler() -> String {
    value(raw(libc::SYS_sched_getscheduler, [0; 5]))
}

/// The nice value as the kernel gives it: 20 minus nice.
pub fn nice() -> String {
    value(raw(libc::SYS_getpriority, [0; 5]).map(|value| 20 - value))
}

/// Real-time priority.
pub fn priority() -> String {
    let mut parameter: i32 = -1;
    match raw(libc::SYS_sched_getparam, [0, (&raw mut parameter).addr(), 0, 0, 0]) {
        Ok(_) => std::hint::black_box(parameter).to_string(),
        Err(error) => super::failure(&error),
    }
}

/// Class and level of input and output.
pub fn io_priority() -> String {
    match raw(libc::SYS_ioprio_get, [1, 0, 0, 0, 0]) {
        Ok(value) => format!("class {} level {}", value >> 13, value & 0x1fff),
        Err(error) => super::failure(&error),
    }
}

/// Linux, or another system that is imitated.
pub fn personality() -> String {
    value(raw(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0]))
}

/// The session keyring: type, owner, permissions and name.
pub fn session_keyring() -> String {
    let mut text = vec![0u8; 256];
    let session = -3isize as usize;
    match raw(libc::SYS_keyctl, [6, session, text.as_mut_ptr().expose_provenance(), text.len(), 0]) {
        Ok(length) => {
            text.truncate((length as usize).min(text.len()));
            String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
        }
        Err(error) => super::failure(&error),
    }
}

fn value(result: io::Result<c_long>) -> String {
    result.map_or_else(|error| super::failure(&error), |value| value.to_string())
}
