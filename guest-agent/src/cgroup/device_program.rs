//! linux.resources.devices as an eBPF program of type cgroup/device.
//!
//! The specification's list comes from cgroup v1: each entry allows or denies some accesses to some devices, and for one
//! access to one device the last entry that speaks of it counts. The program walks the list from its end, keeps the
//! accesses nobody has spoken of yet in a register, and returns "allowed" when none is left.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::bpf::{AND, COPY, EXIT, IF_ANY_BIT, IF_NOT_EQUAL, JUMP, LOAD_WORD, MOVE, SHIFT_RIGHT, insn};

const READ: u32 = 2;
const WRITE: u32 = 4;
const MKNOD: u32 = 1;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// One entry; absent means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: u32,
}

/// What every container may use: runc adds the same at the end of the list.
fn defaults() -> Vec<Rule> {
    let rule = |major, minor, access| Rule { allow: true, kind: Some(CHARACTER), major, minor, access };
    let all = READ | WRITE | MKNOD;
    let mut rules = vec![
        rule(None, None, MKNOD),
        Rule { kind: Some(BLOCK), ..rule(None, None, MKNOD) },
        rule(Some(136), None, all),     // pseudo-terminals
        rule(Some(5), Some(2), all),    // /dev/ptmx
        rule(Some(5), Some(0), all),    // /dev/tty
        rule(Some(10), Some(200), all), // /dev/net/tun
    ];
    // null, zero, full, random, urandom
    rules.extend([3, 5, 7, 8, 9].map(|minor| rule(Some(1), Some(minor), all)));
    rules
}

/// The program's code, from the specification's rules.
pub fn generate(rules: &[LinuxDeviceCgroup]) -> Vec<u64> {
    assemble(&rules.iter().map(rule).chain(defaults()).collect::<Vec<_>>())
}

fn rule(given: &LinuxDeviceCgroup) -> Rule {
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map(|n| n as i32);
    let kind = match given.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        _ => None,
    };
    if kind.is_none() {
        return Rule { allow: given.allow(), kind, major: None, minor: None, access: READ | WRITE | MKNOD };
    }
    let mut access = 0;
    for letter in given.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        };
    }
    Rule { allow: given.allow(), kind, major: number(given.major()), minor: number(given.minor()), access }
}

// Registers: 1 is the context; the kernel gives { access << 16 | type, major, minor }.
const OPEN: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
const KIND: u8 = 5;

fn assemble(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        insn(LOAD_WORD, OPEN, 1, 0, 0),
        insn(LOAD_WORD, MAJOR, 1, 4, 0),
        insn(LOAD_WORD, MINOR, 1, 8, 0),
        insn(COPY, KIND, OPEN, 0, 0),
        insn(AND, KIND, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, OPEN, 0, 0, 16),
    ];
    for rule in rules.iter().rev() {
        let verdict = if rule.allow {
            vec![
                insn(AND, OPEN, 0, 0, !(rule.access as i32)),
                insn(IF_NOT_EQUAL, OPEN, 0, 2, 0),
                insn(MOVE, 0, 0, 0, 1),
                insn(EXIT, 0, 0, 0, 0),
            ]
        } else {
            vec![
                insn(IF_ANY_BIT, OPEN, 0, 1, rule.access as i32),
                insn(JUMP, 0, 0, 2, 0),
                insn(MOVE, 0, 0, 0, 0),
                insn(EXIT, 0, 0, 0, 0),
            ]
        };
        let conditions: Vec<(u8, i32)> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        for (index, (register, value)) in conditions.iter().enumerate() {
            let skip = conditions.len() - index - 1 + verdict.len();
            code.push(insn(IF_NOT_EQUAL, *register, 0, skip as i16, *value));
        }
        code.extend(verdict);
        // The list starts again at an entry for all devices: nothing before it counts.
        if conditions.is_empty() {
            break;
        }
    }
    code.extend([insn(MOVE, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
#[path = "device_program_tests.rs"]
mod tests;
