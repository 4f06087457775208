//! One rule's conditions as code: falls through to what follows when they do not hold.
//!
//! An argument has 64 bits and BPF compares 32, so each comparison is one of the high half and one of the low.

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use super::assemble::{AND, IF_EQUAL, IF_GREATER, IF_GREATER_EQUAL, LOAD, RETURN};
use super::{Abi, Rule};
use crate::sys::Insn;

/// Where a jump leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Yes,
    /// It does not, and so the rule does not apply.
    No,
}

#[derive(Clone, Copy)]
struct Step {
    code: u16,
    k: u32,
    jt: To,
    jf: To,
}

fn step(code: u16, k: u32, jt: To, jf: To) -> Step {
    Step { code, k, jt, jf }
}

/// The rule's code, ending with its action.
pub fn rule(rule: &Rule, abi: Abi) -> Vec<Insn> {
    let conditions: Vec<Vec<Step>> = rule.conditions.iter().map(|c| condition(c, abi)).collect();
    let total: usize = conditions.iter().map(Vec::len).sum();
    let mut code = Vec::with_capacity(total + 1);
    for steps in conditions {
        let end = code.len() + steps.len();
        for step in steps {
            let here = code.len() + 1;
            // Six conditions are 36 instructions at most: every distance fits.
            let distance = |to| match to {
                To::Next => 0,
                To::Yes => (end - here) as u8,
                To::No => (total + 1 - here) as u8,
            };
            code.push(Insn { code: step.code, jt: distance(step.jt), jf: distance(step.jf), k: step.k });
        }
    }
    code.push(Insn { code: RETURN, jt: 0, jf: 0, k: rule.action });
    code
}

fn condition(arg: &LinuxSeccompArg, abi: Abi) -> Vec<Step> {
    use LinuxSeccompOperator as Op;
    use To::{Next, No, Yes};
    let offset = 16 + 8 * arg.index() as u32;
    let (value, second) = match abi {
        // Its arguments have 32 bits; the kernel shows zeros above them.
        Abi::X86 => (arg.value() & 0xffff_ffff, arg.value_two().unwrap_or(0) & 0xffff_ffff),
        _ => (arg.value(), arg.value_two().unwrap_or(0)),
    };
    let load_high = step(LOAD, offset + 4, Next, Next);
    let load_low = step(LOAD, offset, Next, Next);
    let (high, low) = ((value >> 32) as u32, value as u32);
    // `greater` decides on the high halves and, when they are equal, `last` on the low ones.
    let ordered = |last: u16, holds: To, fails: To| {
        vec![
            load_high,
            step(IF_GREATER, high, holds, Next),
            step(IF_EQUAL, high, Next, fails),
            load_low,
            step(last, low, holds, fails),
        ]
    };
    match arg.op() {
        Op::ScmpCmpEq => vec![load_high, step(IF_EQUAL, high, Next, No), load_low, step(IF_EQUAL, low, Yes, No)],
        Op::ScmpCmpNe => vec![load_high, step(IF_EQUAL, high, Next, Yes), load_low, step(IF_EQUAL, low, No, Yes)],
        Op::ScmpCmpGt => ordered(IF_GREATER, Yes, No),
        Op::ScmpCmpGe => ordered(IF_GREATER_EQUAL, Yes, No),
        Op::ScmpCmpLe => ordered(IF_GREATER, No, Yes),
        Op::ScmpCmpLt => ordered(IF_GREATER_EQUAL, No, Yes),
        Op::ScmpCmpMaskedEq => vec![
            load_high,
            step(AND, high, Next, Next),
            step(IF_EQUAL, (second >> 32) as u32, Next, No),
            load_low,
            step(AND, low, Next, Next),
            step(IF_EQUAL, second as u32, Yes, No),
        ],
    }
}
