//! The whole filter: by ABI, then by number (a binary search), then the rules of one call.

use super::names::X32_BIT;
use super::{Abi, Calls, KILL, Rule, conditions};
use crate::sys::Insn;

/// Load a word of `struct seccomp_data` (BPF_LD | BPF_W | BPF_ABS).
pub const LOAD: u16 = 0x20;
/// BPF_ALU | BPF_AND | BPF_K.
pub const AND: u16 = 0x54;
/// BPF_JMP | BPF_JA | BPF_K.
pub const JUMP: u16 = 0x05;
/// BPF_JMP | BPF_JEQ | BPF_K.
pub const IF_EQUAL: u16 = 0x15;
/// BPF_JMP | BPF_JGT | BPF_K.
pub const IF_GREATER: u16 = 0x25;
/// BPF_JMP | BPF_JGE | BPF_K.
pub const IF_GREATER_EQUAL: u16 = 0x35;
/// BPF_RET | BPF_K.
pub const RETURN: u16 = 0x06;

/// SECCOMP_RET_ERRNO with ENOSYS.
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

fn plain(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

/// The filter for all ABIs that the profile allows; calls of others kill.
pub fn program(tables: &[Calls], default: u32) -> Vec<Insn> {
    let of = |abi| tables.iter().find(|calls| calls.abi == abi);
    let kill = || vec![plain(RETURN, KILL)];
    let part = |abi| of(abi).map_or_else(kill, |calls| search(calls, default));
    let (i386, x32, x86_64) = (part(Abi::X86), part(Abi::X32), part(Abi::X86_64));

    let mut sixty_four = vec![plain(LOAD, 0)];
    sixty_four.extend(branch(IF_GREATER_EQUAL, X32_BIT, x86_64, x32));
    let mut thirty_two = vec![plain(LOAD, 0)];
    thirty_two.extend(i386);

    let mut code = vec![plain(LOAD, 4)];
    let other = branch(IF_EQUAL, AUDIT_ARCH_I386, kill(), thirty_two);
    code.extend(branch(IF_EQUAL, AUDIT_ARCH_X86_64, other, sixty_four));
    code
}

/// If the test holds go to `yes`, else to `no`, however far it is; neither falls out at its end.
fn branch(test: u16, k: u32, no: Vec<Insn>, yes: Vec<Insn>) -> Vec<Insn> {
    let mut code = Vec::with_capacity(no.len() + yes.len() + 2);
    match u8::try_from(no.len()) {
        Ok(distance) => code.push(Insn { code: test, jt: distance, jf: 0, k }),
        Err(_) => {
            code.push(Insn { code: test, jt: 0, jf: 1, k });
            code.push(plain(JUMP, no.len() as u32));
        }
    }
    code.extend(no);
    code.extend(yes);
    code
}

/// What happens to the numbers from `start` up to the next segment.
struct Segment {
    start: u32,
    code: Vec<Insn>,
}

/// The numbers of one ABI in segments of equal treatment.
fn search(calls: &Calls, default: u32) -> Vec<Insn> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |start, code: Vec<Insn>| match segments.last() {
        Some(last) if last.code == code => {}
        _ => segments.push(Segment { start, code }),
    };
    let mut next = 0;
    for (number, rules) in &calls.table {
        if *number > next {
            push(next, vec![plain(RETURN, default)]);
        }
        push(*number, body(rules, calls.abi, default));
        next = number.saturating_add(1);
    }
    push(next, vec![plain(RETURN, default)]);
    if let Some(newest) = calls.newest {
        push(newest.saturating_add(1).max(next), vec![plain(RETURN, ENOSYS)]);
    }
    tree(&segments)
}

fn body(rules: &[Rule], abi: Abi, default: u32) -> Vec<Insn> {
    let mut code: Vec<Insn> = rules.iter().flat_map(|r| conditions::rule(r, abi)).collect();
    if rules.iter().all(|r| !r.conditions.is_empty()) {
        code.push(plain(RETURN, default));
    }
    code
}

fn tree(segments: &[Segment]) -> Vec<Insn> {
    match segments {
        [] => vec![plain(RETURN, KILL)],
        [only] => only.code.clone(),
        _ => {
            let (low, high) = segments.split_at(segments.len() / 2);
            branch(IF_GREATER_EQUAL, high[0].start, tree(low), tree(high))
        }
    }
}
