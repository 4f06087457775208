//! The device loop: vsock connections on Unix sockets, entropy, the log console.

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
            any(libc::SYS_eventfd2),
            any(libc::SYS_timerfd_create),
            any(libc::SYS_timerfd_settime),
        ],
    },
    Group {
        why: "streams to the guest: the listening socket was there before; none can be made or connected",
        calls: &[
            any(libc::SYS_accept4),
            any(libc::SYS_readv),
            any(libc::SYS_recvfrom),
            any(libc::SYS_recvmsg),
            any(libc::SYS_sendmsg),
            any(libc::SYS_shutdown),
            when(libc::SYS_getsockopt, &[is(1, libc::SOL_SOCKET as u32)]),
            when(libc::SYS_ioctl, &[is(1, libc::FIONBIO as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_GETFL as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_SETFL as u32)]),
        ],
    },
];
