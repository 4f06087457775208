//! The state in which a vCPU starts.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::boot::Entry;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
/// RFLAGS bit 1 is always set.
const RFLAGS: u64 = 2;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, memory is write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const DELIVERY_EXTINT: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_MASK: u32 = 7 << 8;

/// Puts the first vCPU at the PVH entry point: 32-bit protected mode, flat segments, no paging, EBX = start info.
///
/// # Errors
/// What KVM says.
pub fn set_up_boot_vcpu(vcpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    flat_protected_mode(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: entry.address, rbx: entry.start_info, rflags: RFLAGS, ..Default::default() })
}

/// What every vCPU needs before it runs: MSRs that firmware would set, interrupt pins wired as on a PC, and a clock that runs like
/// the host's.
///
/// # Errors
/// What KVM says.
pub fn set_up_vcpu(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    // 0 asks for the host's rate as the host knows it now. KVM gives a new vCPU the rate that it knew when it was loaded; where the
    // host has measured better since, and the processor cannot scale, that leaves the vCPU with a multiplier of 0: timers
    // fire many seconds late. Refused by processors that need no such help.
    let _ = vcpu.set_tsc_khz(0);
    let entries = [
        // After the rate, so that the offset fits it.
        entry(MSR_IA32_TSC, 0),
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))?;
    // KVM stops at the first MSR that the processor does not have; the last two only save time.
    let _ = vcpu.set_msrs(&msrs)?;
    let mut lapic = vcpu.get_lapic()?;
    set_delivery_mode(&mut lapic, LAPIC_LVT_LINT0, DELIVERY_EXTINT);
    set_delivery_mode(&mut lapic, LAPIC_LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic)
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut lapic.regs[register..register + 4];
    let mut value = [0u8; 4];
    for (to, from) in value.iter_mut().zip(bytes.iter()) {
        *to = *from as u8;
    }
    let value = u32::from_le_bytes(value) & !DELIVERY_MASK | mode;
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = from as libc::c_char;
    }
}

fn flat_protected_mode(sregs: &mut kvm_sregs) {
    let flat = |type_: u8, selector: u16| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    };
    let data = flat(3, 16); // read/write, accessed
    sregs.cs = flat(11, 8); // execute/read, accessed
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: 24, type_: 11, present: 1, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
}
