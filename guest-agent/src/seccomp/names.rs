//! System call names as numbers.

use std::str::FromStr;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator};

use super::Abi;

/// Set in the number of each x32 call.
pub const X32_BIT: u32 = 0x4000_0000;

/// Calls that take structures of another layout in x32 have numbers of their own there.
const X32_OWN: [(&str, u32); 34] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("process_vm_readv", 537),
    ("process_vm_writev", 538),
    ("setsockopt", 539),
    ("getsockopt", 540),
    ("io_setup", 541),
    ("io_submit", 542),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// x86's socketcall(2): the calls behind its first argument, from 1.
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// x86's ipc(2): the calls behind its first argument.
const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The number, if the ABI has such a call.
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    match abi {
        Abi::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok().map(|s| s.id() as u32),
        Abi::X86 => syscalls::x86::Sysno::from_str(name).ok().map(|s| s.id() as u32),
        Abi::X32 => {
            let own = X32_OWN.iter().find(|(n, _)| *n == name).map(|(_, number)| *number);
            own.or_else(|| number(Abi::X86_64, name)).map(|number| number | X32_BIT)
        }
    }
}

/// On x86, many calls can also be made through one that carries the name's number as its first argument.
pub fn multiplexed(abi: Abi, name: &str) -> Option<(u32, LinuxSeccompArg)> {
    if abi != Abi::X86 {
        return None;
    }
    let socket = SOCKET_CALLS.iter().position(|n| *n == name).map(|i| ("socketcall", i as u64 + 1));
    let ipc = || IPC_CALLS.iter().find(|(n, _)| *n == name).map(|(_, number)| ("ipc", *number));
    let (call, first) = socket.or_else(ipc)?;
    let condition = LinuxSeccompArgBuilder::default().index(0usize).value(first).op(LinuxSeccompOperator::ScmpCmpEq);
    Some((number(abi, call)?, condition.build().ok()?))
}
