//! A KVM virtual machine made for containers: PVH boot, virtio over MMIO, no PCI, no ACPI. Knows nothing of OCI.
//!
//! A [`vm::Vm`] is made from guest memory and /dev/kvm, is given devices, is loaded with kernel and initramfs, and is started;
//! it then runs on threads of its own and tells its [`vm::Observer`] how it ended.

pub mod boot;
pub mod console_log;
mod cpuid;
pub mod devices;
pub mod event_loop;
mod hotplug;
pub mod layout;
pub mod memory;
pub mod mmio;
mod ports;
mod registers;
mod sys;
mod vcpu;
pub mod vm;

use std::sync::Arc;

/// What a thread does, so that whoever starts a VM can confine each kind by a filter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a virtual CPU.
    Vcpu,
    /// The device loop.
    Devices,
    /// Answers file system requests.
    Fs,
    /// Answers the requests to one block device.
    Blk,
}

/// Runs first on each thread that a VM starts.
pub type ThreadStart = Arc<dyn Fn(ThreadKind) + Send + Sync>;
