//! A vCPU's thread: runs the guest, answers port and MMIO accesses. Ioeventfds and irqfds are tied before it starts.

use super::{Group, is, when};

/// linux/kvm.h: _IO(0xAE, 0x80).
const KVM_RUN: u32 = 0xae80;

/// Beside the common ones.
pub const GROUPS: &[Group] = &[Group { why: "entering the guest", calls: &[when(libc::SYS_ioctl, &[is(1, KVM_RUN)])] }];
