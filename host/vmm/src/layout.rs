//! Where things are in the guest's physical address space, and which interrupt lines they use.
//!
//! ```text
//! 0x0000_0000  PVH start info, memory map, command line    (below 640 KiB)
//! 0x0009_fc00  MP table (last KiB of base memory, where the kernel looks for it)
//! 0x0010_0000  kernel
//!              initramfs at the end of low memory
//! 0xd000_0000  virtio-mmio windows, 4 KiB each
//! 0xfec0_0000  I/O APIC      0xfee0_0000  local APICs
//! 0x1_0000_0000  memory beyond 3.25 GiB
//! next 2 GiB boundary  where memory that comes later is plugged in
//! ```

/// PVH start info structure.
pub const PVH_INFO: u64 = 0x6000;
/// The one PVH module entry: the initramfs.
pub const PVH_MODULES: u64 = 0x6100;
/// PVH memory map.
pub const PVH_MEMMAP: u64 = 0x7000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line, with its NUL: the kernel's COMMAND_LINE_SIZE.
pub const CMDLINE_MAX: usize = 2048;
/// End of base memory that the kernel may use; the MP table follows.
pub const EBDA_START: u64 = 0x9_fc00;
/// MP table: the kernel scans the last KiB of base memory for it.
pub const MP_TABLE: u64 = EBDA_START;
/// End of base memory.
pub const BASE_MEMORY_END: u64 = 0xa_0000;
/// Start of memory above the legacy hole; kernels are linked above it.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// Memory below 4 GiB ends here.
pub const LOW_MEMORY_END: u64 = MMIO_START;
/// First virtio-mmio window.
pub const MMIO_START: u64 = 0xd000_0000;
/// Size of a virtio-mmio window.
pub const MMIO_WINDOW: u64 = 0x1000;
/// Memory beyond [`LOW_MEMORY_END`] continues here.
pub const FOUR_GIB: u64 = 0x1_0000_0000;

/// I/O APIC registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC registers.
pub const LAPIC: u32 = 0xfee0_0000;
/// Task state segment that KVM needs on Intel processors; no guest memory there.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First interrupt line for a virtio device; lower ones belong to the PC's timer, keyboard and serial ports.
pub const IRQ_FIRST: u32 = 5;
/// Last interrupt line of the I/O APIC.
pub const IRQ_LAST: u32 = 23;
/// Lines for the last devices, where there are more: those of serial ports, which nobody uses. (Early messages go to the first port
/// without interrupts.)
const IRQ_MORE: [u32; 2] = [3, 4];
/// Number of virtio devices that fit.
pub const MAX_DEVICES: usize = IRQS + IRQ_MORE.len();
const IRQS: usize = (IRQ_LAST - IRQ_FIRST + 1) as usize;

/// Least memory in which kernel, initramfs and agent come up, MiB.
pub const MEMORY_MIN_MIB: u64 = 64;
/// Most memory a VM can have, MiB.
pub const MEMORY_MAX_MIB: u64 = 1 << 20;

/// Start and length of each stretch of guest memory for `bytes` in all.
pub fn memory_ranges(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= LOW_MEMORY_END {
        vec![(0, bytes)]
    } else {
        vec![(0, LOW_MEMORY_END), (FOUR_GIB, bytes - LOW_MEMORY_END)]
    }
}

/// Guests add memory in blocks of up to this size (Linux: 128 MiB to 2 GiB), each aligned to its size.
const GROWTH_ALIGNMENT: u64 = 2 << 30;
/// Sizes of memory that comes later are multiples of this: the smallest block of memory that Linux adds.
pub const GROWTH_UNIT: u64 = 128 << 20;

/// Start and length of where memory can be plugged in, so that a VM of `bytes` can have `most`. `None` where that is not more by one
/// [`GROWTH_UNIT`].
pub fn growth_range(bytes: u64, most: u64) -> Option<(u64, u64)> {
    let length = most.min(MEMORY_MAX_MIB << 20).saturating_sub(bytes) / GROWTH_UNIT * GROWTH_UNIT;
    let end = memory_ranges(bytes).iter().map(|(start, length)| start + length).max()?;
    (length > 0).then(|| (end.max(FOUR_GIB).next_multiple_of(GROWTH_ALIGNMENT), length))
}

/// Address of the virtio-mmio window of device `index`.
pub fn mmio_address(index: usize) -> u64 {
    MMIO_START + index as u64 * MMIO_WINDOW
}

/// Interrupt line of device `index`.
pub fn device_irq(index: usize) -> u32 {
    match index.checked_sub(IRQS).and_then(|index| IRQ_MORE.get(index)) {
        Some(line) => *line,
        None => IRQ_FIRST + index as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_that_comes_later_is_above_all_else() {
        assert_eq!(growth_range(512 * MIB, 512 * MIB), None);
        assert_eq!(growth_range(512 * MIB, 0), None);
        assert_eq!(growth_range(512 * MIB, 639 * MIB), None);
        assert_eq!(growth_range(512 * MIB, 640 * MIB), Some((FOUR_GIB, 128 * MIB)));
        assert_eq!(growth_range(512 * MIB, 1300 * MIB), Some((FOUR_GIB, 768 * MIB)));
        assert_eq!(growth_range(LOW_MEMORY_END, LOW_MEMORY_END + 128 * MIB), Some((FOUR_GIB, 128 * MIB)));
        // 256 MiB and then 4 GiB of it are above 4 GiB.
        assert_eq!(
            growth_range(LOW_MEMORY_END + 256 * MIB, 8 << 30),
            Some((6 << 30, (8 << 30) - LOW_MEMORY_END - 256 * MIB))
        );
        assert_eq!(growth_range(LOW_MEMORY_END + (4 << 30), 8 << 30).map(|(start, _)| start), Some(8 << 30));
        let (start, length) = growth_range(MEMORY_MIN_MIB * MIB, u64::MAX).unwrap();
        assert_eq!((start, length), (FOUR_GIB, (MEMORY_MAX_MIB - 128) * MIB));
    }

    #[test]
    fn each_device_has_an_interrupt_line_of_its_own() {
        let mut lines: Vec<u32> = (0..MAX_DEVICES).map(device_irq).collect();
        assert_eq!((lines[0], lines[IRQS - 1]), (IRQ_FIRST, IRQ_LAST));
        lines.sort_unstable();
        lines.dedup();
        assert_eq!((lines.len(), lines[0], lines[MAX_DEVICES - 1]), (MAX_DEVICES, 3, IRQ_LAST));
    }
}
