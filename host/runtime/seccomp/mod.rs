//! Which system calls each kind of the monitor's threads may make. Any other one kills the process.
//!
//! The threat: a guest that has found a hole in a device gets to run code in one of these threads. It shall not start a program,
//! open a network socket, signal or trace another process, map executable memory, change mounts, or reach a kernel interface
//! that the thread has no need for. Threads of a kind that has no business with files cannot name one at all.
//!
//! `build.rs` includes this module; nothing of it is in the program but the compiled filters.

mod blk;
mod common;
mod devices;
mod fs;
mod main_thread;
mod vcpu;

/// System calls that are allowed for one reason.
pub struct Group {
    /// The reason.
    pub why: &'static str,
    /// What it allows.
    pub calls: &'static [Call],
}

/// A system call, and what its arguments must be.
pub struct Call {
    /// Its number.
    pub number: i64,
    /// All of these must hold; empty for any arguments.
    pub args: &'static [Arg],
}

/// A condition on one argument. Only its low 32 bits are looked at: that is where the kernel keeps flags, commands and IDs.
pub struct Arg {
    /// Which argument, from 0.
    pub index: u8,
    /// The condition.
    pub test: Test,
}

/// What an argument must be.
pub enum Test {
    /// Exactly this.
    Is(u32),
    /// None of these bits.
    Lacks(u32),
}

/// The call with any arguments.
pub const fn any(number: i64) -> Call {
    Call { number, args: &[] }
}

/// The call if all of `args` hold.
pub const fn when(number: i64, args: &'static [Arg]) -> Call {
    Call { number, args }
}

/// Argument `index` is `value`.
pub const fn is(index: u8, value: u32) -> Arg {
    Arg { index, test: Test::Is(value) }
}

/// Argument `index` has none of `bits`.
pub const fn lacks(index: u8, bits: u32) -> Arg {
    Arg { index, test: Test::Lacks(bits) }
}

/// Stands for the process's own ID, which replaces it when the filter is loaded. Above the largest ID that Linux gives (2^22).
pub const OWN_PID: u32 = 0x7fff_ff01;

/// The filters, by the name of the static that holds the compiled one.
pub const FILTERS: [(&str, &[&[Group]]); 5] = [
    ("VCPU", &[common::GROUPS, vcpu::GROUPS]),
    ("DEVICES", &[common::GROUPS, devices::GROUPS]),
    ("FS", &[common::GROUPS, fs::GROUPS]),
    ("BLK", &[common::GROUPS, blk::GROUPS]),
    ("MAIN", &[common::GROUPS, main_thread::GROUPS]),
];
