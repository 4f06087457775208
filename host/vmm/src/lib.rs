//! A KVM virtual machine made for containers: PVH boot, virtio over MMIO, no PCI, no ACPI. Knows nothing of OCI.

pub mod boot;
pub mod devices;
pub mod event_loop;
pub mod layout;
pub mod memory;
pub mod mmio;
