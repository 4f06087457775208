//! eBPF instructions, as far as the agent's programs need them.

/// `*(u32 *)(source + offset)` into the destination.
pub const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
/// The source into `*(u32 *)(destination + offset)`.
pub const STORE_WORD: u8 = 0x63; // BPF_STX | BPF_MEM | BPF_W
/// 64 bits that this instruction and the next one hold: see [`load_long`].
pub const LOAD_LONG: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW
/// 32 bits.
pub const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
/// 32 bits.
pub const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
/// 32 bits, from the instruction.
pub const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
/// 32 bits, from a register.
pub const COPY: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
/// 64 bits, from a register: pointers too.
pub const COPY_LONG: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
/// Jumps if 32 bits are not those of the instruction.
pub const IF_NOT_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
/// Jumps if 64 bits are not those of the source.
pub const IF_NOT_EQUAL_LONG: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
/// Jumps if one of these bits is set.
pub const IF_ANY_BIT: u8 = 0x46; // BPF_JMP32 | BPF_JSET | BPF_K
/// Jumps.
pub const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
/// Calls one of the kernel's functions: arguments in registers 1 to 5, which are lost, the result in 0.
pub const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
/// Ends the program with register 0.
pub const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// One instruction.
pub fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    u64::from(code) | u64::from(src << 4 | dst) << 8 | u64::from(offset as u16) << 16 | u64::from(imm as u32) << 32
}

/// The two of [`LOAD_LONG`].
pub fn load_long(dst: u8, value: u64) -> [u64; 2] {
    [insn(LOAD_LONG, dst, 0, 0, value as i32), insn(0, 0, 0, 0, (value >> 32) as i32)]
}
