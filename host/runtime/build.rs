//! Compiles the seccomp filters (`seccomp/`) to BPF, so that at run time a filter is only loaded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

#[path = "seccomp/mod.rs"]
mod seccomp;

use seccomp::{Arg, Group, Test};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=seccomp");
    let mut source =
        format!("/// Stands in the filters for the process's own ID.\nconst OWN_PID: u32 = {};\n", seccomp::OWN_PID);
    for (name, groups) in seccomp::FILTERS {
        let program = compile(groups).map_err(|err| format!("filter {name}: {err}"))?;
        write_program(&mut source, name, &program)?;
    }
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("seccomp_filters.rs"), source)?;
    Ok(())
}

fn compile(groups: &[&[Group]]) -> Result<BpfProgram, Error> {
    let arch: TargetArch = std::env::var("CARGO_CFG_TARGET_ARCH")?.as_str().try_into()?;
    // Each system call: `None` when any arguments will do, else the alternatives.
    let mut calls: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for group in groups.iter().copied().flatten() {
        if group.why.is_empty() {
            return Err("a group of system calls says why it is allowed".into());
        }
        for call in group.calls {
            let rules = calls.entry(call.number).or_insert_with(|| Some(Vec::new()));
            match rules {
                Some(list) if !call.args.is_empty() => list.push(rule(call.args)?),
                _ => *rules = None,
            }
        }
    }
    let rules = calls.into_iter().map(|(number, rules)| (number, rules.unwrap_or_default())).collect();
    Ok(SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()?)
}

fn rule(args: &[Arg]) -> Result<SeccompRule, Error> {
    let mut conditions = Vec::with_capacity(args.len());
    for arg in args {
        let (op, value) = match arg.test {
            Test::Is(value) => (SeccompCmpOp::Eq, value),
            Test::Lacks(bits) => (SeccompCmpOp::MaskedEq(bits.into()), 0),
        };
        conditions.push(SeccompCondition::new(arg.index, SeccompCmpArgLen::Dword, op, value.into())?);
    }
    Ok(SeccompRule::new(conditions)?)
}

fn write_program(source: &mut String, name: &str, program: &BpfProgram) -> Result<(), Error> {
    writeln!(source, "static {name}: [sock_filter; {}] = [", program.len())?;
    for i in program {
        writeln!(source, "    sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},", i.code, i.jt, i.jf, i.k)?;
    }
    writeln!(source, "];")?;
    Ok(())
}
