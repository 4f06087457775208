//! Guest memory: anonymous memory from guest physical address 0 on, and above it room for memory that is plugged in later.
//!
//! The room is mapped from the start, so that devices whose queues were set up before reach what is plugged in; the guest has no
//! memory there until [`Running::grow`](crate::vm::Running::grow). A hostile guest can name addresses there to a device before that, and
//! have it touch them: that is memory of the container's, no more than it could have had plugged in, and bounded where all of it is,
//! by the monitor's cgroup.

use std::sync::Arc;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{Address, GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::{layout, sys};

/// Guest memory as every device sees it. The bitmap type is the one that virtiofsd's reader and writer are written for; it is
/// empty, and costs one relaxed check a write.
pub type GuestMemory = GuestMemoryMmap<BitmapMmapRegion>;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size cannot be laid out below the device window.
    #[error("guest memory of {mib} MiB is out of range: give {min} to {max} MiB")]
    Size {
        /// Asked for.
        mib: u64,
        /// Smallest size a guest boots with.
        min: u64,
        /// Largest size that fits below [`layout::MMIO_START`] plus above 4 GiB.
        max: u64,
    },
    /// mmap(2) failed.
    #[error("cannot map {mib} MiB of guest memory: {reason}")]
    Map {
        /// Asked for.
        mib: u64,
        /// What the system said.
        reason: String,
    },
}

/// A VM's memory, and where more can be plugged in.
#[derive(Clone)]
pub struct VmMemory {
    /// All of it, with the room for more.
    pub guest: Arc<GuestMemory>,
    /// Start and length of that room.
    pub growth: Option<(u64, u64)>,
}

impl VmMemory {
    /// Without the room for more.
    pub fn boot_regions(&self) -> impl Iterator<Item = &GuestRegionMmap<BitmapMmapRegion>> {
        self.guest.iter().filter(|region| self.growth.is_none_or(|(start, _)| region.start_addr().raw_value() < start))
    }

    /// The room for more.
    pub fn growth_region(&self) -> Option<&GuestRegionMmap<BitmapMmapRegion>> {
        self.growth.and_then(|(start, _)| self.guest.find_region(GuestAddress(start)))
    }
}

/// Maps `mib` MiB of guest memory, lazily: it costs the host something once it is touched, in huge pages where there are any.
///
/// Memory above [`layout::LOW_MEMORY_END`] continues at 4 GiB, as on a PC.
///
/// # Errors
/// [`MemoryError::Size`] outside [`layout::MEMORY_MIN_MIB`]..=[`layout::MEMORY_MAX_MIB`], [`MemoryError::Map`] when mmap(2) fails.
pub fn allocate(mib: u64) -> Result<Arc<GuestMemory>, MemoryError> {
    allocate_growing(mib, mib).map(|memory| memory.guest)
}

/// The same with room for `most_mib` MiB in all. Where there is no such room on the host, there is none in the VM.
///
/// # Errors
/// See [`allocate`].
pub fn allocate_growing(mib: u64, most_mib: u64) -> Result<VmMemory, MemoryError> {
    if !(layout::MEMORY_MIN_MIB..=layout::MEMORY_MAX_MIB).contains(&mib) {
        return Err(MemoryError::Size { mib, min: layout::MEMORY_MIN_MIB, max: layout::MEMORY_MAX_MIB });
    }
    let growth = layout::growth_range(mib << 20, most_mib.saturating_mul(1 << 20));
    let mapped = |growth: Option<(u64, u64)>| {
        let ranges = layout::memory_ranges(mib << 20).into_iter().chain(growth);
        let ranges =
            ranges.map(|(start, len)| Ok((GuestAddress(start), usize::try_from(len).map_err(|e| e.to_string())?)));
        let ranges = ranges.collect::<Result<Vec<_>, String>>()?;
        let guest = GuestMemory::from_ranges(&ranges).map_err(|e| e.to_string())?;
        guest.iter().for_each(sys::advise_huge_pages);
        Ok(VmMemory { guest: Arc::new(guest), growth })
    };
    // A host that counts what is mapped (vm.overcommit_memory=2) may have enough for the start only.
    let memory = mapped(growth).or_else(|reason: String| if growth.is_some() { mapped(None) } else { Err(reason) });
    memory.map_err(|reason| MemoryError::Map { mib, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_more_is_no_memory_yet() {
        let memory = allocate_growing(64, 1 << 10).unwrap();
        let regions =
            |memory: &VmMemory| memory.boot_regions().map(|r| (r.start_addr().0, r.len())).collect::<Vec<_>>();
        assert_eq!(regions(&memory), [(0, 64 << 20)]);
        let room = memory.growth_region().unwrap();
        assert_eq!((room.start_addr().0, room.len()), (layout::FOUR_GIB, 896 << 20));
        let fixed = allocate_growing(64, 64).unwrap();
        assert_eq!(regions(&fixed), regions(&memory));
        assert!(fixed.growth_region().is_none());
    }

    #[test]
    fn room_that_the_host_does_not_have_is_left_out() {
        // More than a process can map.
        let memory = allocate_growing(64, 1 << 20).unwrap();
        assert_eq!(memory.boot_regions().count(), 1);
    }
}
