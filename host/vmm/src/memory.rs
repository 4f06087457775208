//! Guest memory: one region of anonymous memory at guest physical address 0.

use std::sync::Arc;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap};

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

/// Maps `mib` MiB of guest memory, lazily: it costs the host something once it is touched, in huge pages where there are any.
///
/// Memory above [`layout::LOW_MEMORY_END`] continues at 4 GiB, as on a PC.
///
/// # Errors
/// [`MemoryError::Size`] outside [`layout::MEMORY_MIN_MIB`]..=[`layout::MEMORY_MAX_MIB`], [`MemoryError::Map`] when mmap(2) fails.
pub fn allocate(mib: u64) -> Result<Arc<GuestMemory>, MemoryError> {
    if !(layout::MEMORY_MIN_MIB..=layout::MEMORY_MAX_MIB).contains(&mib) {
        return Err(MemoryError::Size { mib, min: layout::MEMORY_MIN_MIB, max: layout::MEMORY_MAX_MIB });
    }
    let map_error = |reason: String| MemoryError::Map { mib, reason };
    let mut ranges = Vec::new();
    for (start, len) in layout::memory_ranges(mib << 20) {
        let len = usize::try_from(len).map_err(|e| map_error(e.to_string()))?;
        ranges.push((GuestAddress(start), len));
    }
    let memory = GuestMemory::from_ranges(&ranges).map_err(|e| map_error(e.to_string()))?;
    memory.iter().for_each(sys::advise_huge_pages);
    Ok(Arc::new(memory))
}
