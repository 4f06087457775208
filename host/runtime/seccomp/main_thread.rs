//! The main thread, once all others run: the control socket, on which orders come, and the devices that it is told to plug in.

use super::{Group, any, is, when};

/// linux/kvm.h: _IOW(0xAE, 0x76, struct kvm_irqfd) and _IOW(0xAE, 0x79, struct kvm_ioeventfd).
const KVM_IRQFD: u32 = 0x4020_ae76;
const KVM_IOEVENTFD: u32 = 0x4040_ae79;
/// linux/kvm.h: _IOW(0xAE, 0x46, struct kvm_userspace_memory_region).
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
/// linux/vhost.h: _IOR(0xAF, 0x00, __u64).
const VHOST_GET_FEATURES: u32 = 0x8008_af00;

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
    Group {
        why: "a device that is plugged in: its eventfds, and what ties them to the VM",
        calls: &[
            any(libc::SYS_eventfd2),
            any(libc::SYS_getrandom),
            when(libc::SYS_ioctl, &[is(1, KVM_IRQFD)]),
            when(libc::SYS_ioctl, &[is(1, KVM_IOEVENTFD)]),
            when(libc::SYS_ioctl, &[is(1, VHOST_GET_FEATURES)]),
        ],
    },
    Group {
        why: "memory that is plugged in: the region of guest memory for it was mapped before",
        calls: &[when(libc::SYS_ioctl, &[is(1, KVM_SET_USER_MEMORY_REGION)])],
    },
];
