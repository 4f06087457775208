//! Telling KVM where guest memory is: the one unsafe call of the crate.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};
use vhost_user_backend::bitmap::BitmapMmapRegion;

/// Registers `region` as memory slot `slot`.
///
/// The region must stay mapped as long as the VM can run: [`crate::vm::Running`] keeps both.
///
/// # Errors
/// What KVM says.
pub fn register(vm: &VmFd, slot: u32, region: &GuestRegionMmap<BitmapMmapRegion>) -> Result<(), kvm_ioctls::Error> {
    let slot = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: address and size are those of a live mapping that `region` owns, and `Vm` and `Running` hold the guest memory that
    // owns `region` for as long as they hold the VM. The guest can write any byte of it at any time; nothing in this process
    // makes references into it (vm-memory gives volatile access only).
    unsafe { vm.set_user_memory_region(slot) }
}
