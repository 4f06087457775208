//! What every thread needs to live: memory, locks, clocks, its end.

use super::{Group, OWN_PID, any, is, lacks, when};

const PROT_EXEC: u32 = libc::PROT_EXEC as u32;

/// Allowed in every thread.
pub const GROUPS: &[Group] = &[
    Group {
        why: "malloc, thread stacks and guest memory; never executable",
        calls: &[
            any(libc::SYS_brk),
            when(libc::SYS_mmap, &[lacks(2, PROT_EXEC)]),
            when(libc::SYS_mprotect, &[lacks(2, PROT_EXEC)]),
            any(libc::SYS_munmap),
            any(libc::SYS_mremap),
            any(libc::SYS_madvise),
        ],
    },
    Group {
        why: "locks, channels, joining threads; malloc counts the processors before it makes an arena",
        calls: &[
            any(libc::SYS_futex),
            any(libc::SYS_sched_yield),
            any(libc::SYS_sched_getaffinity),
            any(libc::SYS_set_robust_list),
            any(libc::SYS_rseq),
        ],
    },
    Group {
        why: "returning from and masking signals; taking down the signal stack when a thread ends",
        calls: &[
            any(libc::SYS_rt_sigprocmask),
            any(libc::SYS_rt_sigreturn),
            any(libc::SYS_sigaltstack),
            any(libc::SYS_restart_syscall),
        ],
    },
    Group {
        why: "clocks, where the vDSO has none",
        calls: &[
            any(libc::SYS_clock_gettime),
            any(libc::SYS_gettimeofday),
            any(libc::SYS_clock_nanosleep),
            any(libc::SYS_nanosleep),
        ],
    },
    Group {
        why: "eventfds (kicks, interrupts, stop), the log on standard error, reports on the control socket",
        calls: &[
            any(libc::SYS_read),
            any(libc::SYS_write),
            any(libc::SYS_writev),
            any(libc::SYS_close),
            when(libc::SYS_sendto, &[is(5, 0)]), // no address: to the peer that the socket has
            when(libc::SYS_fcntl, &[is(1, libc::F_GETFD as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_DUPFD_CLOEXEC as u32)]),
        ],
    },
    Group { why: "hash table keys", calls: &[any(libc::SYS_getrandom)] },
    Group {
        why: "the end: of the thread, of the process, by abort; kicking a vCPU thread. No other process can be signalled",
        calls: &[
            any(libc::SYS_exit),
            any(libc::SYS_exit_group),
            any(libc::SYS_getpid),
            any(libc::SYS_gettid),
            when(libc::SYS_tgkill, &[is(0, OWN_PID)]),
            when(libc::SYS_rt_sigaction, &[is(0, libc::SIGABRT as u32)]),
        ],
    },
];
