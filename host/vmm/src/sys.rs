//! The calls that need unsafe code: all are about where guest memory is.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{Address, GuestAddress, GuestMemory as _, GuestMemoryRegion, GuestRegionMmap};

use crate::memory::GuestMemory;

const PAGE: u64 = 4096;

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

/// Gives the host what it has in the place of guest memory from `address` on, as far as that is memory: it reads as zeroes afterwards.
/// Pages that are in part outside of the range stay.
pub fn give_back(memory: &GuestMemory, address: u64, length: u64) {
    let Some(region) = memory.find_region(GuestAddress(address)) else { return };
    let offset = address - region.start_addr().raw_value();
    let end = offset.saturating_add(length).min(region.len()) & !(PAGE - 1);
    let Some(length) = offset.checked_next_multiple_of(PAGE).and_then(|start| end.checked_sub(start)) else { return };
    let (Ok(offset), Ok(length)) = (usize::try_from(end - length), usize::try_from(length)) else { return };
    if length == 0 {
        return;
    }
    // SAFETY: offset and length are within a live mapping of anonymous memory that belongs to the guest, and nothing in this process
    // makes references into it. The host's kernel may be reading or writing there for another device: it holds its own pages.
    let done = unsafe { libc::madvise(region.as_ptr().add(offset).cast(), length, libc::MADV_DONTNEED) };
    if done != 0 {
        log::debug!("guest memory cannot be given back: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::memory;

    #[test]
    fn what_is_given_back_reads_as_zeroes() {
        let memory = memory::allocate(64).unwrap();
        let end = 64u64 << 20;
        let set = |address: u64| memory.write_obj(7u8, GuestAddress(address)).unwrap();
        let is = |address: u64| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        let places = [0, PAGE - 1, PAGE, 2 * PAGE - 1, 2 * PAGE, end - PAGE, end - 1];
        for (address, length, left) in [
            (0, PAGE, &[2, 3, 4, 5, 6][..]),
            (1, 2 * PAGE, &[0, 1, 4, 5, 6]),
            (1, PAGE - 2, &[0, 1, 2, 3, 4, 5, 6]),
            (PAGE, PAGE - 1, &[0, 1, 2, 3, 4, 5, 6]),
            (PAGE, 0, &[0, 1, 2, 3, 4, 5, 6]),
            (end - PAGE, u64::MAX, &[0, 1, 2, 3, 4]),
            (end - 1, 1, &[0, 1, 2, 3, 4, 5, 6]),
            (end, PAGE, &[0, 1, 2, 3, 4, 5, 6]),
            (u64::MAX, u64::MAX, &[0, 1, 2, 3, 4, 5, 6]),
        ] {
            places.into_iter().for_each(set);
            give_back(&memory, address, length);
            let now: Vec<usize> = (0..places.len()).filter(|place| is(places[*place]) == 7).collect();
            assert_eq!(now, left, "{address:#x} {length:#x}");
        }
    }
}
