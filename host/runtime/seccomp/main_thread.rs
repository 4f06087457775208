//! The main thread, once all others run: the control socket, waiting for the end.

use super::{Group, any, is, when};

/// Beside the common ones.
pub const GROUPS: &[Group] = &[
    Group {
        why: "waiting",
        calls: &[
            any(libc::SYS_epoll_wait),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_poll),
            any(libc::SYS_ppoll),
            any(libc::SYS_timerfd_create),
            any(libc::SYS_timerfd_settime),
        ],
    },
    Group {
        why: "the control socket",
        calls: &[
            any(libc::SYS_readv),
            any(libc::SYS_recvfrom),
            any(libc::SYS_recvmsg),
            any(libc::SYS_sendmsg),
            any(libc::SYS_shutdown),
            when(libc::SYS_ioctl, &[is(1, libc::FIONBIO as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_GETFL as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_SETFL as u32)]),
        ],
    },
];
