//! PVH boot (the kernel's `Documentation/arch/x86` and Xen's `misc/pvh`): the kernel is an ELF file with a note that names a
//! 32-bit entry point; it finds memory map, command line and initramfs through a start info structure.

use std::fs::File;

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory as _, GuestMemoryRegion};

use super::{CommandLine, KernelImage, KernelImageError, load_file};
use crate::layout;
use crate::memory::{GuestMemory, VmMemory};

const START_INFO_MAGIC: u32 = 0x336e_c578;
const MEMMAP_RAM: u32 = 1;
const MEMMAP_RESERVED: u32 = 2;
const PAGE: u64 = 4096;

/// Why a guest cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel file is none.
    #[error("the guest's kernel cannot be started: {0}")]
    Kernel(#[from] KernelImageError),
    /// A file cannot be brought into guest memory.
    #[error("cannot load the guest's {what}: {reason}")]
    Load {
        /// Kernel or initramfs.
        what: &'static str,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Kernel and initramfs do not fit into guest memory.
    #[error(
        "kernel and initramfs need {needed} MiB of the guest's memory, it has {available} MiB; give it more memory"
    )]
    Memory {
        /// MiB that they take.
        needed: u64,
        /// MiB of low memory.
        available: u64,
    },
    /// The command line is not valid.
    #[error(transparent)]
    CommandLine(#[from] super::CommandLineError),
    /// Boot structures could not be written.
    #[error("cannot write the boot parameters: {0}")]
    Parameters(String),
}

/// Where and how the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Guest physical address of the 32-bit entry point.
    pub address: u64,
    /// Guest physical address of the start info structure, for EBX.
    pub start_info: u64,
}

/// Loads kernel and initramfs and writes what the kernel needs to find them.
///
/// # Errors
/// See [`BootError`]; guest memory is then in an undefined state.
pub fn load(
    vm: &VmMemory,
    kernel: &mut File,
    initramfs: &mut File,
    command_line: &CommandLine,
) -> Result<Entry, BootError> {
    let memory = vm.guest.as_ref();
    let image = KernelImage::read(kernel)?;
    let kernel_end = load_kernel(memory, kernel, &image)?;
    let (address, size) = load_initramfs(memory, initramfs, kernel_end)?;
    let line = command_line.to_bytes()?;
    memory.write_slice(&line, GuestAddress(layout::CMDLINE)).map_err(|e| BootError::Parameters(e.to_string()))?;
    write_start_info(vm, address, size)?;
    Ok(Entry { address: image.entry, start_info: layout::PVH_INFO })
}

/// Loads all segments; returns where the last one ends.
fn load_kernel(memory: &GuestMemory, kernel: &mut File, image: &KernelImage) -> Result<u64, BootError> {
    let low = low_memory(memory)?;
    let end = image.end().ok_or(KernelImageError::NotAnElf)?;
    if end > low {
        return Err(BootError::Memory { needed: (end >> 20) + 1, available: low >> 20 });
    }
    if image.segments.iter().any(|segment| segment.address < layout::HIGH_MEMORY_START) {
        return Err(KernelImageError::NotAnElf.into());
    }
    for segment in &image.segments {
        load_file::load(memory, segment.address, kernel, segment.offset, segment.file_size)
            .map_err(|reason| BootError::Load { what: "kernel", reason })?;
    }
    Ok(end)
}

fn low_memory(memory: &GuestMemory) -> Result<u64, BootError> {
    let region = memory.find_region(GuestAddress(0));
    region.map(|region| region.len()).ok_or_else(|| BootError::Parameters("guest memory does not start at 0".into()))
}

/// Puts the initramfs at the end of low memory, where the kernel's own allocations do not want to be.
fn load_initramfs(memory: &GuestMemory, initramfs: &mut File, kernel_end: u64) -> Result<(u64, u64), BootError> {
    let failed = |reason| BootError::Load { what: "initramfs", reason };
    let size = initramfs.metadata().map_err(failed)?.len();
    let low = low_memory(memory)?;
    let start = low.checked_sub(size).map(|start| start & !(PAGE - 1)).filter(|start| *start >= kernel_end);
    let needed = (kernel_end.saturating_add(size) >> 20) + 1;
    let start = start.ok_or(BootError::Memory { needed, available: low >> 20 })?;
    load_file::load(memory, start, initramfs, 0, size).map_err(failed)?;
    Ok((start, size))
}

fn write_start_info(vm: &VmMemory, initramfs: u64, initramfs_size: u64) -> Result<(), BootError> {
    let memmap = memory_map(vm);
    let module = start_info::hvm_modlist_entry { paddr: initramfs, size: initramfs_size, ..Default::default() };
    let info = start_info::hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::CMDLINE,
        memmap_paddr: layout::PVH_MEMMAP,
        memmap_entries: memmap.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(layout::PVH_INFO));
    params.set_sections(&memmap, GuestAddress(layout::PVH_MEMMAP));
    params.set_modules(&[module], GuestAddress(layout::PVH_MODULES));
    PvhBootConfigurator::write_bootparams(&params, vm.guest.as_ref()).map_err(|e| BootError::Parameters(e.to_string()))
}

fn memory_map(vm: &VmMemory) -> Vec<start_info::hvm_memmap_table_entry> {
    let entry = |addr, size, type_| start_info::hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
    let mut map = vec![
        entry(0, layout::EBDA_START, MEMMAP_RAM),
        entry(layout::EBDA_START, layout::BASE_MEMORY_END - layout::EBDA_START, MEMMAP_RESERVED),
    ];
    for region in vm.boot_regions() {
        let start = region.start_addr().raw_value().max(layout::HIGH_MEMORY_START);
        let end = region.start_addr().raw_value() + region.len();
        map.push(entry(start, end - start, MEMMAP_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn what_is_not_an_elf_image_is_refused() {
        let memory = memory::allocate_growing(64, 64).unwrap();
        for content in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &[0; 4096]] {
            let result = load(&memory, &mut file(content), &mut file(b""), &CommandLine::default());
            assert!(matches!(result, Err(BootError::Kernel(_))), "{result:?}");
        }
    }

    #[test]
    fn an_initramfs_that_does_not_fit_is_refused() {
        let memory = memory::allocate(64).unwrap();
        let large = tempfile::tempfile().unwrap();
        large.set_len(65 << 20).unwrap();
        assert!(matches!(load_initramfs(&memory, &mut { large }, 0), Err(BootError::Memory { .. })));
        let fits_but_for_the_kernel = file(&[0; 8192]);
        let result = load_initramfs(&memory, &mut { fits_but_for_the_kernel }, 64 << 20);
        assert!(matches!(result, Err(BootError::Memory { .. })));
    }

    #[test]
    fn memory_map_leaves_out_the_mp_table_and_the_legacy_hole() {
        // Nor does memory that may come later belong there.
        let memory = memory::allocate_growing(128, 1024).unwrap();
        let map = memory_map(&memory);
        let ram: Vec<_> = map.iter().filter(|e| e.type_ == MEMMAP_RAM).map(|e| (e.addr, e.addr + e.size)).collect();
        assert_eq!(ram, [(0, layout::MP_TABLE), (layout::HIGH_MEMORY_START, 128 << 20)]);
    }
}
