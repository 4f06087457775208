//! The device loop: vsock connections on Unix sockets, network frames, entropy, the log console.

use super::{Group, any, is, when};

/// linux/if_tun.h: _IOW('T', 208, unsigned int).
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
/// linux/if_tun.h: _IOW('T', 217, int).
const TUNSETQUEUE: u32 = 0x4004_54d9;
/// linux/vhost.h, each by the name without VHOST_.
mod vhost {
    pub const SET_OWNER: u32 = 0xaf01;
    pub const SET_FEATURES: u32 = 0x4008_af00;
    pub const SET_MEM_TABLE: u32 = 0x4008_af03;
    pub const SET_VRING_NUM: u32 = 0x4008_af10;
    pub const SET_VRING_ADDR: u32 = 0x4028_af11;
    pub const SET_VRING_BASE: u32 = 0x4008_af12;
    pub const SET_VRING_KICK: u32 = 0x4008_af20;
    pub const SET_VRING_CALL: u32 = 0x4008_af21;
    pub const NET_SET_BACKEND: u32 = 0x4008_af30;
}

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
    Group {
        why: "a network device that the guest sets up: the tap, and vhost-net where the host has it",
        calls: &[
            when(libc::SYS_ioctl, &[is(1, TUNSETOFFLOAD)]),
            when(libc::SYS_ioctl, &[is(1, TUNSETQUEUE)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_OWNER)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_FEATURES)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_MEM_TABLE)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_VRING_NUM)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_VRING_ADDR)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_VRING_BASE)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_VRING_KICK)]),
            when(libc::SYS_ioctl, &[is(1, vhost::SET_VRING_CALL)]),
            when(libc::SYS_ioctl, &[is(1, vhost::NET_SET_BACKEND)]),
        ],
    },
];
