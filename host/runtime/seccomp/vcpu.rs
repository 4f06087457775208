//! A vCPU's thread: runs the guest, answers port and MMIO accesses. Ioeventfds and irqfds are tied before it starts.

use super::{Group, any, is, when};

/// linux/kvm.h: _IO(0xAE, 0x80).
const KVM_RUN: u32 = 0xae80;

/// Beside the common ones.
pub const GROUPS: &[Group] = &[
    Group { why: "entering the guest", calls: &[when(libc::SYS_ioctl, &[is(1, KVM_RUN)])] },
    Group {
        why: "a device is activated by a write to its register: its worker's tables (hash keys) and a spare descriptor are made here",
        calls: &[any(libc::SYS_getrandom), any(libc::SYS_eventfd2)],
    },
];
