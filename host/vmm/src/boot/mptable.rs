//! The MP table (Intel MultiProcessor Specification 1.4): how a guest without ACPI learns of its CPUs and interrupt lines.

use vm_memory::{Bytes, GuestAddress};

use crate::layout;
use crate::memory::GuestMemory;

const SPEC_1_4: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
/// APIC present and FPU present, the two feature bits that the specification asks for.
const CPU_FEATURES: u32 = (1 << 9) | 1;
const ISA_BUS: u8 = 0;
const INTERRUPT: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
const ALL_APICS: u8 = 0xff;

const ENTRY_CPU: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_IO_INTERRUPT: u8 = 3;
const ENTRY_LOCAL_INTERRUPT: u8 = 4;

/// Why the table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MpTableError {
    /// More CPUs than the kilobyte holds.
    #[error("{vcpus} vCPUs are too many: the guest's CPU table holds {max}")]
    TooManyCpus {
        /// Asked for.
        vcpus: u8,
        /// Most that fit.
        max: u8,
    },
    /// Guest memory does not reach that far.
    #[error("cannot write the CPU table: {0}")]
    Write(String),
}

/// Most vCPUs that the table's kilobyte holds beside the other entries.
pub const MAX_VCPUS: u8 = 32;

/// Writes the table for `vcpus` CPUs, whose APIC ids are 0 to `vcpus` - 1.
///
/// # Errors
/// See [`MpTableError`].
pub fn write_mp_table(memory: &GuestMemory, vcpus: u8) -> Result<(), MpTableError> {
    if vcpus > MAX_VCPUS {
        return Err(MpTableError::TooManyCpus { vcpus, max: MAX_VCPUS });
    }
    let table_address = layout::MP_TABLE + 16;
    let mut bytes = floating_pointer(table_address as u32);
    bytes.extend(configuration_table(vcpus));
    memory.write_slice(&bytes, GuestAddress(layout::MP_TABLE)).map_err(|e| MpTableError::Write(e.to_string()))
}

/// Section 4.1.
fn floating_pointer(table: u32) -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend(table.to_le_bytes());
    bytes.extend([1, SPEC_1_4, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

/// Section 4.2, with its entries (4.3).
fn configuration_table(vcpus: u8) -> Vec<u8> {
    let ioapic_id = vcpus;
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOTSTRAP } else { 0 };
        let mut entry = vec![ENTRY_CPU, id, APIC_VERSION, flags];
        entry.extend(0x600u32.to_le_bytes()); // signature: any family; the kernel uses CPUID
        entry.extend(CPU_FEATURES.to_le_bytes());
        entry.extend([0; 8]);
        add(&entry);
    }
    add(&[&[ENTRY_BUS, ISA_BUS], &b"ISA   "[..]].concat());
    add(&[&[ENTRY_IOAPIC, ioapic_id, APIC_VERSION, 1], &layout::IOAPIC.to_le_bytes()[..]].concat());
    for irq in 0..=layout::IRQ_LAST as u8 {
        add(&[ENTRY_IO_INTERRUPT, INTERRUPT, 0, 0, ISA_BUS, irq, ioapic_id, irq]);
    }
    add(&[ENTRY_LOCAL_INTERRUPT, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    add(&[ENTRY_LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let mut table = b"PCMP".to_vec();
    table.extend((44 + entries.len() as u16).to_le_bytes());
    table.extend([SPEC_1_4, 0]);
    table.extend(b"SANDBOX MICROVM     "); // OEM (8 bytes) and product (12 bytes)
    table.extend([0; 6]); // no OEM table
    table.extend(count.to_le_bytes());
    table.extend(layout::LAPIC.to_le_bytes());
    table.extend([0; 4]); // no extended table
    table.extend(entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn both_structures_sum_to_zero_and_fit_the_kilobyte() {
        for vcpus in [1, 2, MAX_VCPUS] {
            let pointer = floating_pointer(0x9_fc10);
            assert_eq!(pointer.len(), 16);
            assert_eq!(checksum(&pointer), 0);
            let table = configuration_table(vcpus);
            assert_eq!(checksum(&table), 0);
            assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
            let end = layout::MP_TABLE + (pointer.len() + table.len()) as u64;
            assert!(end <= layout::BASE_MEMORY_END, "{vcpus} CPUs: {end:#x}");
        }
    }

    #[test]
    fn too_many_cpus_are_refused() {
        let memory = memory::allocate(64).unwrap();
        assert!(write_mp_table(&memory, MAX_VCPUS).is_ok());
        assert!(matches!(write_mp_table(&memory, MAX_VCPUS + 1), Err(MpTableError::TooManyCpus { .. })));
    }
}
