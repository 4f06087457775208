//! A vCPU's thread: runs the guest, answers port and MMIO accesses.

use super::{Group, any, is, when};

// linux/kvm.h: _IO, _IOR and _IOW of 0xAE.
const KVM_RUN: u32 = 0xae80;
const KVM_IRQFD: u32 = 0x4020_ae76;
const KVM_IOEVENTFD: u32 = 0x4040_ae79;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_GET_SREGS: u32 = 0x8138_ae83;

/// Beside the common ones.
pub const GROUPS: &[Group] = &[
    Group {
        why: "entering the guest",
        calls: &[when(libc::SYS_ioctl, &[is(1, KVM_RUN)])],
    },
    Group {
        why: "where the guest stood, for the message when KVM gives up on it",
        calls: &[
            when(libc::SYS_ioctl, &[is(1, KVM_GET_REGS)]),
            when(libc::SYS_ioctl, &[is(1, KVM_GET_SREGS)]),
        ],
    },
    Group {
        why: "the driver's reset and activation of a device tie its kicks and interrupt to eventfds, on this thread",
        calls: &[
            when(libc::SYS_ioctl, &[is(1, KVM_IRQFD)]),
            when(libc::SYS_ioctl, &[is(1, KVM_IOEVENTFD)]),
            any(libc::SYS_eventfd2),
        ],
    },
];
