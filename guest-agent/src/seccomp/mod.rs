//! linux.seccomp, compiled to the classic BPF that seccomp(2) takes.
//!
//! The rules mean what they mean to libseccomp, through which other runtimes load them: names the kernel does not know are
//! skipped, a rule without conditions beats those with conditions for the same call, then the first that matches counts.

mod assemble;
mod conditions;
mod names;

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};

use crate::sys::Insn;

/// A profile that cannot be loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It needs a process outside that decides.
    #[error("SCMP_ACT_NOTIFY is not supported in the guest: nobody there could answer")]
    Notify,
    /// A system call has six arguments.
    #[error("syscall argument {0} does not exist (0 to 5)")]
    Argument(usize),
    /// The kernel takes 4095 at most.
    #[error("errnoRet {0} is out of range (0 to 4095)")]
    Errno(u32),
    /// The kernel's limit.
    #[error("the profile needs {0} BPF instructions, and 4096 is the most that the kernel takes")]
    TooLong(usize),
}

/// A filter ready to load.
#[derive(Debug)]
pub struct Program {
    /// For seccomp(2).
    pub code: Vec<Insn>,
    /// SECCOMP_FILTER_FLAG_….
    pub flags: u32,
}

/// The kernel's ABIs on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64 bits.
    X86_64,
    /// 64-bit registers, 32-bit pointers: calls of x86_64 with a bit set.
    X32,
    /// 32 bits.
    X86,
}

/// One rule for one system call: all conditions hold → the action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// None means always.
    pub conditions: Vec<LinuxSeccompArg>,
    /// A SECCOMP_RET_… value.
    pub action: u32,
}

/// The rules for one ABI, by system call number.
pub type Table = BTreeMap<u32, Vec<Rule>>;

/// What a profile says of one ABI's calls.
pub struct Calls {
    /// Whose calls.
    pub abi: Abi,
    /// The rules.
    pub table: Table,
    /// The highest number that the profile names, where calls beyond it are answered ENOSYS: a program that tries a call newer than the
    /// profile then falls back to an older one, which it does not after EPERM. runc does the same.
    pub newest: Option<u32>,
}

/// SECCOMP_RET_KILL_THREAD, for calls of an ABI that the profile does not list: libseccomp's choice.
const KILL: u32 = 0;

/// Compiles a profile.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut abis = vec![Abi::X86_64];
    for arch in profile.architectures().iter().flatten() {
        let abi = match arch {
            Arch::ScmpArchNative | Arch::ScmpArchX86_64 => Abi::X86_64,
            Arch::ScmpArchX32 => Abi::X32,
            Arch::ScmpArchX86 => Abi::X86,
            // A call of another machine's cannot be made here.
            _ => continue,
        };
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let mut tables = Vec::new();
    for abi in abis {
        let newest = newest(profile, abi);
        tables.push(Calls { abi, table: table(profile, abi, default)?, newest });
    }
    let code = assemble::program(&tables, default);
    if code.len() > 4096 {
        return Err(Error::TooLong(code.len()));
    }
    Ok(Program { code, flags: flags(profile) })
}

/// See [`Calls::newest`]. Where the default lets calls through there is nothing to fall back from.
fn newest(profile: &LinuxSeccomp, abi: Abi) -> Option<u32> {
    use LinuxSeccompAction as Action;
    let lets_through =
        matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    if lets_through || abi == Abi::X32 {
        return None;
    }
    let names = profile.syscalls().iter().flatten().flat_map(|entry| entry.names());
    names.filter_map(|name| names::number(abi, name)).max()
}

fn flags(profile: &LinuxSeccomp) -> u32 {
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 1,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
        // Says how a listener waits; the kernel takes it only together with one.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    profile.flags().iter().flatten().map(bit).fold(0, |all, flag| all | flag)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    match (action, errno) {
        (LinuxSeccompAction::ScmpActNotify, _) => Err(Error::Notify),
        (_, Some(errno @ 4096..)) => Err(Error::Errno(errno)),
        _ => Ok(action.as_u32(errno)),
    }
}

fn table(profile: &LinuxSeccomp, abi: Abi, default: u32) -> Result<Table, Error> {
    let mut table = Table::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        if action == default {
            continue; // nothing is gained
        }
        let alternatives = alternatives(entry)?;
        for name in entry.names() {
            if let Some(number) = names::number(abi, name) {
                add(&mut table, number, &alternatives, action);
            }
            if let Some((number, first)) = names::multiplexed(abi, name).filter(|_| alternatives == [[]]) {
                add(&mut table, number, &[vec![first]], action);
            }
        }
    }
    for rules in table.values_mut() {
        if let Some(always) = rules.iter().position(|r| r.conditions.is_empty()) {
            *rules = vec![rules[always].clone()];
        }
    }
    Ok(table)
}

fn add(table: &mut Table, number: u32, alternatives: &[Vec<LinuxSeccompArg>], action: u32) {
    let rules = table.entry(number).or_default();
    rules.extend(alternatives.iter().map(|conditions| Rule { conditions: conditions.clone(), action }));
}

/// All conditions of an entry must hold; but where two speak of the same argument, any one of all is enough. (That is how
/// runc has to load it, and profiles are written for runc.)
fn alternatives(entry: &LinuxSyscall) -> Result<Vec<Vec<LinuxSeccompArg>>, Error> {
    let args = entry.args().as_deref().unwrap_or_default();
    let mut seen = [false; 6];
    let mut twice = false;
    for arg in args {
        let slot = seen.get_mut(arg.index()).ok_or(Error::Argument(arg.index()))?;
        twice |= std::mem::replace(slot, true);
    }
    Ok(if twice { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args.to_vec()] })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
