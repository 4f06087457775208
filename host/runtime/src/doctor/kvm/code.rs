//! What the scratch VM runs, and the 64-bit kernel mode it runs in.
//!
//! ```text
//! 0x1000  page tables: 2 MiB, identity
//! 0x4000  interrupt table, one gate: breakpoints go to 0x8000
//! 0x5000  segment descriptors
//! 0x6000  scratch data, 64-byte aligned
//! 0x8000  breakpoint handler
//! 0xa000  top of the stack
//! 0x10000 programs, PROGRAM_SIZE apart; each ends with HLT
//! ```

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// Bytes of guest memory.
pub const MEMORY: usize = 2 << 20;

const PAGE_TABLES: [u64; 3] = [0x1000, 0x2000, 0x3000];
const INTERRUPT_TABLE: u64 = 0x4000;
const SEGMENTS: u64 = 0x5000;
const DATA: u64 = 0x6000;
const BREAKPOINT_HANDLER: u64 = 0x8000;
const STACK: u64 = 0xa000;
const PROGRAMS: u64 = 0x1_0000;
const PROGRAM_SIZE: u64 = 0x100;

/// Something that guest kernels execute early, and that was seen missing where KVM interprets.
pub struct Instruction {
    /// Its name.
    pub name: &'static str,
    /// CPUID leaf (sub-leaf 0) with the bit that says whether the processor has it. Leaf 0: every one has.
    pub leaf: u32,
    /// In ECX of leaf 1, in EBX of leaf 7.
    pub bit: u32,
    /// Machine code; RBX points to scratch data.
    code: &'static [u8],
}

/// A loop of RCX times two instructions: `dec rcx; jnz`.
const LOOP: [u8; 6] = [0x48, 0xff, 0xc9, 0x75, 0xfb, HLT];
const HLT: u8 = 0xf4;

/// XSAVE in CPUID leaf 1, ECX.
pub const XSAVE_BIT: u32 = 26;

/// The instructions tried after the loop.
pub const INSTRUCTIONS: [Instruction; 5] = [
    Instruction { name: "int3", leaf: 0, bit: 0, code: &[0xcc, HLT] },
    Instruction { name: "cmpxchg16b", leaf: 1, bit: 13, code: &[0xf0, 0x48, 0x0f, 0xc7, 0x0b, HLT] },
    Instruction { name: "popcnt", leaf: 1, bit: 23, code: &[0xf3, 0x48, 0x0f, 0xb8, 0xc1, HLT] },
    // mov eax, 3; xor edx, edx; xsave [rbx]; xrstor [rbx]
    Instruction {
        name: "xsave and xrstor",
        leaf: 1,
        bit: XSAVE_BIT,
        code: &[0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x23, 0x0f, 0xae, 0x2b, HLT],
    },
    Instruction { name: "clac", leaf: 7, bit: 20, code: &[0x0f, 0x01, 0xca, HLT] },
];

/// Writes tables and programs to guest memory.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    const TABLE: u64 = 0b11; // present, writable
    const LARGE_PAGE: u64 = 1 << 7;
    memory.write_obj(PAGE_TABLES[1] | TABLE, GuestAddress(PAGE_TABLES[0]))?;
    memory.write_obj(PAGE_TABLES[2] | TABLE, GuestAddress(PAGE_TABLES[1]))?;
    memory.write_obj(TABLE | LARGE_PAGE, GuestAddress(PAGE_TABLES[2]))?;
    // Null, 64-bit code, data.
    for (selector, descriptor) in (0..).step_by(8).zip([0_u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]) {
        memory.write_obj(descriptor, GuestAddress(SEGMENTS + selector))?;
    }
    // A present interrupt gate to the code segment at offset BREAKPOINT_HANDLER, which fits in 16 bits.
    let gate = BREAKPOINT_HANDLER | 0x08 << 16 | 0x8e00 << 32;
    memory.write_obj(gate, GuestAddress(INTERRUPT_TABLE + 3 * 16))?;
    memory.write_slice(&[0x48, 0xcf], GuestAddress(BREAKPOINT_HANDLER))?; // iretq
    memory.write_slice(&LOOP, GuestAddress(PROGRAMS))?;
    for (address, instruction) in programs().zip(&INSTRUCTIONS) {
        memory.write_slice(instruction.code, GuestAddress(address))?;
    }
    Ok(())
}

fn programs() -> impl Iterator<Item = u64> {
    (1..).map(|n| PROGRAMS + n * PROGRAM_SIZE)
}

/// Registers for `rounds` rounds of the loop: twice as many instructions.
pub fn loop_registers(rounds: u64) -> kvm_regs {
    kvm_regs { rcx: rounds, ..registers(PROGRAMS) }
}

/// Registers for the instruction at `index` of [`INSTRUCTIONS`].
pub fn instruction_registers(index: usize) -> kvm_regs {
    registers(programs().nth(index).unwrap_or(PROGRAMS))
}

fn registers(rip: u64) -> kvm_regs {
    kvm_regs { rip, rsp: STACK, rbx: DATA, rflags: 2, ..Default::default() }
}

/// Puts the vCPU in 64-bit kernel mode.
pub fn set_long_mode(sregs: &mut kvm_sregs, xsave: bool) {
    let segment = |selector, type_, l| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(0x08, 0b1011, 1);
    let data = segment(0x10, 0b0011, 0);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.gdt = kvm_dtable { base: SEGMENTS, limit: 3 * 8 - 1, ..Default::default() };
    sregs.idt = kvm_dtable { base: INTERRUPT_TABLE, limit: 4 * 16 - 1, ..Default::default() };
    sregs.cr3 = PAGE_TABLES[0];
    // PAE, OSFXSR, OSXMMEXCPT; OSXSAVE.
    sregs.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | u64::from(xsave) << 18;
    // PG, WP, NE, ET, MP, PE.
    sregs.cr0 = 0x8001_0033;
    // LME, LMA.
    sregs.efer = 1 << 8 | 1 << 10;
}
