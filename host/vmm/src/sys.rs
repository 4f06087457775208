//! The calls that need unsafe code: both are about where guest memory is.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{Address, GuestMemoryRegion, GuestRegionMmap};

/// Registers `region` as memory slot `slot`.
///
/// The region must stay mapped as long as the VM can run: [`crate::vm::Running`] keeps both.
///
/// # Errors
/// What KVM says.
pub fn register_memory(
    vm: &VmFd,
    slot: u32,
    region: &GuestRegionMmap<BitmapMmapRegion>,
) -> Result<(), kvm_ioctls::Error> {
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

/// Asks for huge pages under `region`: a guest's boot touches most of what it will ever touch at once, and one fault in the place of
/// 512 is what makes that fast. Where the host has none, nothing changes.
pub fn advise_huge_pages(region: &GuestRegionMmap<BitmapMmapRegion>) {
    let Ok(length) = usize::try_from(region.len()) else { return };
    // SAFETY: address and length are those of a live anonymous mapping; the advice changes no content and no protection.
    unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_HUGEPAGE) };
}
