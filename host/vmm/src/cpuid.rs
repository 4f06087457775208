//! Which processor features a guest sees: what KVM supports, less what is of no use to a container or widens the attack surface.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// ECX bits of leaf 1 that are taken away: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, PDCM.
const LEAF_1_ECX_OFF: u32 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15;
const LEAF_1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF_1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF_1_EDX_HTT: u32 = 1 << 28;
/// EBX bits of leaf 7: SGX, HLE, RTM (transactional memory leaks), RDT-M, MPX, RDT-A, PT.
const LEAF_7_EBX_OFF: u32 = 1 << 2 | 1 << 4 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 25;
/// ECX bits of leaf 7: WAITPKG (a guest that waits burns host time), SGX_LC.
const LEAF_7_ECX_OFF: u32 = 1 << 5 | 1 << 30;
/// EDX bits of leaf 7: PCONFIG.
const LEAF_7_EDX_OFF: u32 = 1 << 18;
/// ECX bits of leaf 0x8000_0001: SVM, OSVW, IBS, SKINIT, WDT, LWP, NodeId, TopologyExtensions, performance counters, MWAITX.
const LEAF_8000_0001_ECX_OFF: u32 =
    1 << 2 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 19 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 29;
const LEAF_8000_0001_ECX_CMP_LEGACY: u32 = 1 << 1;
/// EAX of leaf 6: the APIC timer always runs.
const LEAF_6_EAX_ARAT: u32 = 1 << 2;

/// The CPUID table of the vCPU with APIC id `id` among `count`, made from what KVM supports.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let mut table = supported.clone();
    for entry in table.as_mut_slice() {
        filter(entry, id, count, tsc_deadline);
    }
    table
}

fn filter(entry: &mut kvm_cpuid_entry2, id: u8, count: u8, tsc_deadline: bool) {
    match entry.function {
        0x1 => {
            entry.ecx = entry.ecx & !LEAF_1_ECX_OFF & !LEAF_1_ECX_TSC_DEADLINE | LEAF_1_ECX_HYPERVISOR;
            if tsc_deadline {
                entry.ecx |= LEAF_1_ECX_TSC_DEADLINE;
            }
            entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | u32::from(id) << 24;
            entry.edx = entry.edx & !LEAF_1_EDX_HTT | if count > 1 { LEAF_1_EDX_HTT } else { 0 };
        }
        0x4 => share_caches(entry, count),
        0x6 => {
            entry.eax &= LEAF_6_EAX_ARAT;
            (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
        }
        0x7 if entry.index == 0 => {
            entry.ebx &= !LEAF_7_EBX_OFF;
            entry.ecx &= !LEAF_7_ECX_OFF;
            entry.edx &= !LEAF_7_EDX_OFF;
        }
        0xb | 0x1f => topology(entry, id, count),
        // Performance counters, resource director, SGX, processor trace; AMD: SVM, cache and node topology, counters.
        0xa | 0xf | 0x10 | 0x12 | 0x14 | 0x8000_000a | 0x8000_001d | 0x8000_001e | 0x8000_0022 => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        0x8000_0001 => {
            entry.ecx &= !(LEAF_8000_0001_ECX_OFF | LEAF_8000_0001_ECX_CMP_LEGACY);
            if count > 1 {
                entry.ecx |= LEAF_8000_0001_ECX_CMP_LEGACY;
            }
        }
        // ECX: number of threads - 1, and how many bits of the APIC id they take.
        0x8000_0008 => entry.ecx = u32::from(count - 1) | id_bits(count) << 12,
        _ => {}
    }
}

/// Leaf 4: caches of level 1 and 2 belong to one CPU, level 3 to all.
fn share_caches(entry: &mut kvm_cpuid_entry2, count: u8) {
    let level = entry.eax >> 5 & 7;
    let sharing = if level >= 3 { u32::from(count) - 1 } else { 0 };
    entry.eax = entry.eax & 0x3fff | sharing << 14 | (u32::from(count) - 1) << 26;
}

/// Leaves 0xb and 0x1f: one thread a core, all cores in one package.
fn topology(entry: &mut kvm_cpuid_entry2, id: u8, count: u8) {
    const SMT: u32 = 1;
    const CORE: u32 = 2;
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, SMT << 8),
        1 => (id_bits(count), u32::from(count), CORE << 8 | 1),
        index => (0, 0, index & 0xff),
    };
    entry.edx = u32::from(id);
}

/// Bits that hold the ids 0 to `count` - 1.
fn id_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax: !0, ebx: !0, ecx: !0, edx: !0, ..Default::default() }
    }

    #[test]
    fn virtualization_is_hidden_and_the_hypervisor_is_not() {
        let mut one = entry(1, 0);
        filter(&mut one, 0, 1, false);
        assert_eq!(one.ecx & 1 << 5, 0, "VMX");
        assert_eq!(one.ecx & 1 << 24, 0, "TSC deadline only when KVM has it");
        assert_ne!(one.ecx & 1 << 31, 0, "hypervisor");
        let mut amd = entry(0x8000_0001, 0);
        filter(&mut amd, 0, 1, true);
        assert_eq!(amd.ecx & 1 << 2, 0, "SVM");
    }

    #[test]
    fn ids_and_counts_are_the_vcpus() {
        let supported = CpuId::from_entries(&[entry(1, 0), entry(0xb, 1), entry(0x8000_0008, 0)]).unwrap();
        let table = for_vcpu(&supported, 2, 3, true);
        let [leaf1, core, amd] = table.as_slice() else { panic!("three leaves") };
        assert_eq!((leaf1.ebx >> 24, leaf1.ebx >> 16 & 0xff), (2, 3));
        assert_eq!((core.eax, core.ebx, core.edx), (2, 3, 2));
        assert_eq!(amd.ecx, 2 | 2 << 12);
    }
}
