//! The system calls that neither `rustix` nor the standard library offers as safe functions. All of the agent's unsafe
//! code is here.

use std::ffi::{CStr, CString, c_int, c_long, c_ulong, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::watching::{HANDLE_MAX, Handle};

/// Which side of a [`clone3`] the caller is.
pub enum Cloned {
    /// The caller; `pid` is the new process.
    Parent(Pid),
    /// The new process.
    Child,
}

/// clone3(2) as fork: memory is copied, the signal at exit is SIGCHLD. `flags` holds namespace flags; with `cgroup` the
/// child is born in that cgroup, and with CLONE_PARENT it is the caller's sibling and has its signal.
///
/// The agent never has a second thread, so the child's copy of the memory (locks, allocator) is consistent and it may
/// run any code.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let mut args = CloneArgs { flags, exit_signal, ..CloneArgs::default() };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: `args` lives across the call and has the size passed. No CLONE_VM and no stack: the child goes on with a
    // copy of the parent's stack, as after fork(2).
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    Ok(match Pid::from_raw(pid as i32) {
        Some(pid) => Cloned::Parent(pid),
        None => Cloned::Child,
    })
}

/// A child as of fork(2), and for the parent a pidfd of it. For where the container's seccomp profile may stand between us and the kernel:
/// profiles know clone(2), and older ones neither clone3(2) nor pidfd_open(2).
pub fn fork() -> io::Result<Option<(Pid, OwnedFd)>> {
    let (flags, none) = (c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD), 0 as c_long);
    let mut pidfd: c_int = -1;
    // SAFETY: as with `clone3`: there is one thread, so the child may run any code. The kernel writes one descriptor to `pidfd`, which lives
    // across the call; no other argument is used with these flags.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, &raw mut pidfd, none, none) })?;
    let Some(pid) = Pid::from_raw(pid as i32) else { return Ok(None) };
    // SAFETY: the kernel has just opened it for us (close-on-exec), and nobody else owns it.
    Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// Ends the process at once, without destructors or exit handlers: for children of [`clone3`].
pub fn exit(status: c_int) -> ! {
    // SAFETY: _exit(2) takes no pointers and does not return.
    unsafe { libc::_exit(status) }
}

/// execve(2); returns only on failure.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// unshare(2).
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; the flags used are namespace flags, which affect no memory.
    check(unsafe { libc::unshare(flags) } as c_long).map(drop)
}

/// setns(2) with a namespace file; `kind` is the CLONE_NEW… flag that the file must match.
pub fn setns(fd: BorrowedFd<'_>, kind: c_int) -> io::Result<()> {
    // SAFETY: takes a valid descriptor and no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) } as c_long).map(drop)
}

/// Closes all descriptors from 3 up but these.
pub fn close_all_but(keep: &[RawFd]) {
    // Fails for a range without an end before its start only, and there is none.
    let _ = close_range_but(keep, 0);
}

/// Marks all descriptors from 3 up as close-on-exec.
pub fn close_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    close_range_but(&[], CLOSE_RANGE_CLOEXEC)
}

/// Undoes that for one.
pub fn keep_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers, and closes nothing.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) } as c_long).map(drop)
}

fn close_range_but(keep: &[RawFd], flags: c_int) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: the process (a fresh child) uses none of these descriptors again: their owners are never dropped.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, flags) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Makes `fd` the process's descriptor number `target`, not close-on-exec.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: the process (a fresh child) uses no descriptor again that had this number: see container/preserved.rs.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) } as c_long).map(drop)
}

/// Watches a descriptor that is in non-blocking mode.
pub fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    async_fd_with(fd, Interest::READABLE | Interest::WRITABLE)
}

/// Watches a descriptor for this only.
pub fn async_fd_with(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one descriptor for as long as it lives, and AsyncFd gives no mutable access to it here.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Sets every signal to its default action and empties the signal mask: for a child before it executes.
pub fn reset_signals() {
    // SAFETY: `set` is initialised by sigemptyset before use; SIG_DFL is valid for every signal, and failure (KILL, STOP,
    // the C library's own) changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Ignores SIGPIPE, so that writing to a closed pipe is an error and not the end of the agent.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is valid for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Flags of a mount to set and clear, as in `struct mount_attr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MountAttr {
    /// MOUNT_ATTR_… to set.
    pub set: u64,
    /// MOUNT_ATTR_… to clear.
    pub clear: u64,
    /// MS_SHARED and so on, or 0.
    pub propagation: u64,
    /// For idmapped mounts.
    pub userns_fd: u64,
}

/// mount_setattr(2) on the mount that `fd` is the root of.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` has the kernel's layout and the size passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// One classic BPF instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// seccomp(2) SECCOMP_SET_MODE_FILTER.
pub fn seccomp_load(program: &[Insn], flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Insn,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let fprog = Program { len, filter: program.as_ptr() };
    // SAFETY: `fprog` has the layout of struct sock_fprog and points to `len` instructions.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, 1 /* SET_MODE_FILTER */, flags as c_ulong, &raw const fprog)
    })
    .map(drop)
}

/// What an eBPF program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfKind {
    /// Devices of a cgroup.
    Device,
    /// Socket addresses of a cgroup; with the place (BPF_CGROUP_…) for which the kernel is to check the program.
    SocketAddress(u32),
}

/// Loads an eBPF program; `code` is a whole number of 8-byte instructions.
pub fn bpf_load(kind: BpfKind, code: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
    }
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
    let (prog_type, expected_attach_type) = match kind {
        BpfKind::Device => (BPF_PROG_TYPE_CGROUP_DEVICE, 0),
        BpfKind::SocketAddress(place) => (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, place),
    };
    let load = Load {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type,
    };
    // SAFETY: `load` has the layout of union bpf_attr for PROG_LOAD and its pointers outlive the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a device program to a cgroup, in the place of another if there is one; further ones must all allow an access for it to
/// pass.
pub fn bpf_attach_device(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
    }
    const BPF_PROG_ATTACH: c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    const BPF_F_REPLACE: u32 = 4;
    let attach = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: `attach` has the layout of union bpf_attr for PROG_ATTACH.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) }).map(drop)
}

/// Attaches a program to a cgroup, beside others, for as long as the descriptor is open.
pub fn bpf_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, place: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    const BPF_LINK_CREATE: c_int = 28;
    let link = Link {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: place,
        flags: 0,
    };
    // SAFETY: `link` has the layout of union bpf_attr for LINK_CREATE.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const link, size_of::<Link>()) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The number by which eBPF programs know the network namespace of a socket.
pub fn network_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `cookie`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast::<c_void>(),
            &raw mut length,
        )
    } as c_long)?;
    Ok(cookie)
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: the keyring of that name, or a new one. Gives its number.
pub fn join_session_keyring(name: &CStr) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name is a C string that outlives the call.
    let serial = check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(serial as i32)
}

/// keyctl(2) KEYCTL_SETPERM.
pub fn set_key_permissions(serial: i32, permissions: u32) -> io::Result<()> {
    const KEYCTL_SETPERM: c_int = 5;
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, permissions) }).map(drop)
}

/// personality(2).
pub fn personality(persona: u64) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::personality(persona as c_ulong) } as c_long).map(drop)
}

/// ioprio_set(2) on the calling process.
pub fn ioprio_set(class: u32, priority: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class << 13 | priority) }).map(drop)
}

/// `struct sched_attr`, without the utilisation clamps.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SchedAttr {
    /// Set by [`sched_setattr`].
    pub size: u32,
    /// SCHED_….
    pub policy: u32,
    /// SCHED_FLAG_….
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) on the calling thread.
pub fn sched_setattr(attr: SchedAttr) -> io::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attr };
    // SAFETY: `attr` begins with its own size and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Has CLOCK_REALTIME make up for so many nanoseconds little by little, instead of what was asked for before.
pub fn slew_clock(by_ns: i64) -> io::Result<()> {
    // SAFETY: an all-zero timex is valid.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = by_ns / 1_000;
    adjtimex(&mut change)
}

/// Adds so many nanoseconds to CLOCK_REALTIME at once.
pub fn step_clock(by_ns: i64) -> io::Result<()> {
    // SAFETY: an all-zero timex is valid.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time.tv_sec = by_ns.div_euclid(1_000_000_000);
    // Nanoseconds, by ADJ_NANO.
    change.time.tv_usec = by_ns.rem_euclid(1_000_000_000);
    adjtimex(&mut change)
}

fn adjtimex(change: &mut libc::timex) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one timex, which outlives the call.
    check(c_long::from(unsafe { libc::adjtimex(change) })).map(drop)
}

/// Brings the network interface `lo` of the current network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: `request` is a complete ifreq with a terminated name.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) } as c_long).map(drop)
}

/// Bytes that the peer of a socket has not taken yet, where the transport counts them.
pub fn unsent_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ as _, (&raw mut bytes).cast::<c_void>()) } as c_long)?;
    Ok(bytes.max(0) as usize)
}

/// `struct file_handle` with all the room that there can be.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: c_int,
    data: [u8; HANDLE_MAX],
}

/// name_to_handle_at(2): of what `directory` itself stands for when the name is empty.
pub fn name_to_handle(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Handle> {
    let mut handle = FileHandle { bytes: HANDLE_MAX as u32, kind: 0, data: [0; HANDLE_MAX] };
    let mut mount: c_int = 0;
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `handle` has the layout of struct file_handle and as much room as it says, the name is a C string, and the kernel writes one
    // int to `mount`.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    })?;
    let bytes = handle.data.get(..handle.bytes as usize).unwrap_or_default().to_vec();
    Ok(Handle { kind: handle.kind, bytes })
}

/// open_by_handle_at(2) in the file system of an open file.
pub fn open_by_handle(file: BorrowedFd<'_>, handle: &Handle, flags: c_int) -> io::Result<OwnedFd> {
    let mut raw =
        FileHandle { bytes: handle.bytes.len().min(HANDLE_MAX) as u32, kind: handle.kind, data: [0; HANDLE_MAX] };
    for (to, from) in raw.data.iter_mut().zip(&handle.bytes) {
        *to = *from;
    }
    // SAFETY: `raw` has the layout of struct file_handle, holds as many bytes as it says, and outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_by_handle_at, file.as_raw_fd(), &raw const raw, flags) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A signal by number, real-time ones included.
pub fn signal(number: c_int) -> Option<rustix::process::Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the kernel knows the signals 1 to 64. The C library keeps 32 and 33 for its threads, and neither the agent
    // nor what it signals shares a process with such threads of ours: the number only goes to kill(2).
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}
