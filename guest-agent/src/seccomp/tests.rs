use super::assemble::{AND, IF_EQUAL, IF_GREATER, IF_GREATER_EQUAL, JUMP, LOAD, RETURN};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;

/// Runs a filter as the kernel would.
fn run(code: &[Insn], arch: u32, number: u32, args: &[u64]) -> u32 {
    let mut data = vec![number, arch, 0, 0];
    for i in 0..6 {
        let arg = args.get(i).copied().unwrap_or(0);
        data.extend([arg as u32, (arg >> 32) as u32]);
    }
    let (mut a, mut pc) = (0u32, 0usize);
    loop {
        let insn = code[pc];
        pc += 1;
        let jump = |yes: bool| usize::from(if yes { insn.jt } else { insn.jf });
        match insn.code {
            LOAD => a = data[insn.k as usize / 4],
            AND => a &= insn.k,
            JUMP => pc += insn.k as usize,
            IF_EQUAL => pc += jump(a == insn.k),
            IF_GREATER => pc += jump(a > insn.k),
            IF_GREATER_EQUAL => pc += jump(a >= insn.k),
            RETURN => return insn.k,
            other => panic!("unknown operation {other:#x}"),
        }
    }
}

fn compiled(json: &str) -> Vec<Insn> {
    compile(&serde_json::from_str(json).unwrap()).unwrap().code
}

fn number(name: &str) -> u32 {
    names::number(Abi::X86_64, name).unwrap()
}

#[test]
fn names_lists_and_defaults() {
    let code = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["reboot"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    assert_eq!(run(&code, X86_64, number("mkdir"), &[]), 0x0005_000d);
    assert_eq!(run(&code, X86_64, number("reboot"), &[]), 0x8000_0000);
    assert_eq!(run(&code, X86_64, number("read"), &[]), ALLOW);
    assert_eq!(run(&code, X86_64, 9999, &[]), ALLOW);
    assert_eq!(run(&code, I386, 3, &[]), KILL, "an ABI that is not listed");
    assert_eq!(run(&code, X86_64, 0x4000_0000, &[]), KILL, "x32 is not listed");
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    const ENOSYS: u32 = 0x0005_0026;
    let profile = |default: &str| {
        compiled(&format!(
            r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
                {{"names":["statx","no_such_call"],"action":"SCMP_ACT_ALLOW"}},
                {{"names":["openat2"],"action":"SCMP_ACT_ERRNO","errnoRet":1}}]}}"#
        ))
    };
    let code = profile("SCMP_ACT_ERRNO");
    let newest = number("openat2");
    assert_eq!(run(&code, X86_64, number("statx"), &[]), ALLOW);
    for named_or_older in [0, number("statx") + 1, newest - 1, newest] {
        assert_eq!(run(&code, X86_64, named_or_older, &[]), EPERM, "{named_or_older}");
    }
    for newer in [newest + 1, number("faccessat2"), 9999, 0x3fff_ffff] {
        assert_eq!(run(&code, X86_64, newer, &[]), ENOSYS, "{newer}");
    }
    let newest = names::number(Abi::X86, "openat2").unwrap();
    assert_eq!((run(&code, I386, newest, &[]), run(&code, I386, newest + 1, &[])), (EPERM, ENOSYS));
    assert_eq!(run(&code, X86_64, 0x4000_0000 | 9999, &[]), EPERM, "x32 has the default");

    let killing = profile("SCMP_ACT_KILL_PROCESS");
    assert_eq!(run(&killing, X86_64, 9999, &[]), ENOSYS);
    assert_eq!(run(&killing, X86_64, 0, &[]), 0x8000_0000);
    assert_eq!(run(&profile("SCMP_ACT_LOG"), X86_64, 9999, &[]), 0x7ffc_0000, "nothing to fall back from");
}

#[test]
fn default_errno_and_empty_profile() {
    let code = compiled(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38}"#);
    assert_eq!(run(&code, X86_64, 0, &[]), 0x0005_0026);
    assert_eq!(run(&compiled(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#), X86_64, 7, &[]), EPERM);
}

fn holds(op: &str, value: u64, two: u64, arg: u64) -> bool {
    let code = compiled(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
            "args":[{{"index":1,"value":{value},"valueTwo":{two},"op":"SCMP_CMP_{op}"}}]}}]}}"#
    ));
    match run(&code, X86_64, 0, &[77, arg]) {
        ALLOW => true,
        EPERM => false,
        other => panic!("{other:#x}"),
    }
}

#[test]
fn every_operator_compares_64_bits() {
    let values = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, 0x5_0000_0001, u64::MAX - 1, u64::MAX];
    for a in values {
        for v in values {
            assert_eq!(holds("EQ", v, 0, a), a == v, "{a:#x} == {v:#x}");
            assert_eq!(holds("NE", v, 0, a), a != v, "{a:#x} != {v:#x}");
            assert_eq!(holds("LT", v, 0, a), a < v, "{a:#x} < {v:#x}");
            assert_eq!(holds("LE", v, 0, a), a <= v, "{a:#x} <= {v:#x}");
            assert_eq!(holds("GT", v, 0, a), a > v, "{a:#x} > {v:#x}");
            assert_eq!(holds("GE", v, 0, a), a >= v, "{a:#x} >= {v:#x}");
            for two in [0, 5, 0x1_0000_0000] {
                assert_eq!(holds("MASKED_EQ", v, two, a), a & v == two, "{a:#x} & {v:#x} == {two:#x}");
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_are_all_needed() {
    let code = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":2,"value":9,"op":"SCMP_CMP_NE"}]}]}"#,
    );
    let socket = number("socket");
    assert_eq!(run(&code, X86_64, socket, &[16, 0, 0]), ALLOW);
    assert_eq!(run(&code, X86_64, socket, &[16, 0, 9]), EPERM);
    assert_eq!(run(&code, X86_64, socket, &[15, 0, 0]), EPERM);
}

#[test]
fn conditions_on_the_same_argument_are_alternatives() {
    let code = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    for (arg, expected) in [(0, ALLOW), (8, ALLOW), (1, EPERM)] {
        assert_eq!(run(&code, X86_64, number("personality"), &[arg]), expected);
    }
}

#[test]
fn first_match_counts_and_unconditional_beats_conditional() {
    let code = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"args":[{"index":0,"value":5,"op":"SCMP_CMP_GE"}]},
            {"names":["read","write"],"action":"SCMP_ACT_ERRNO","errnoRet":2,"args":[{"index":0,"value":6,"op":"SCMP_CMP_GE"}]},
            {"names":["write"],"action":"SCMP_ACT_ERRNO","errnoRet":3},
            {"names":["write"],"action":"SCMP_ACT_ERRNO","errnoRet":4}]}"#,
    );
    assert_eq!(run(&code, X86_64, 0, &[7]), 0x0005_0001);
    assert_eq!(run(&code, X86_64, 0, &[4]), ALLOW);
    assert_eq!(run(&code, X86_64, 1, &[7]), 0x0005_0003);
}

#[test]
fn other_abis_have_their_own_numbers() {
    let code = compiled(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{"names":["getpid","ioctl","socket","socketcall_not"],"action":"SCMP_ACT_ALLOW"},
            {"names":["lseek"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(run(&code, I386, 20, &[]), ALLOW);
    assert_eq!(run(&code, I386, 39, &[]), EPERM);
    assert_eq!(run(&code, X86_64, 39, &[]), ALLOW);
    assert_eq!(run(&code, X86_64, 0x4000_0000 | 39, &[]), ALLOW);
    assert_eq!(run(&code, X86_64, 0x4000_0000 | 514, &[]), ALLOW, "x32's own ioctl");
    assert_eq!(run(&code, X86_64, 0x4000_0000 | 16, &[]), EPERM, "x86_64's ioctl");
    assert_eq!(run(&code, I386, 102, &[1]), ALLOW, "socketcall(SYS_SOCKET)");
    assert_eq!(run(&code, I386, 102, &[2]), EPERM, "socketcall(SYS_BIND)");
    assert_eq!(run(&code, I386, 19, &[0, 0xffff_ffff]), ALLOW, "values are cut to 32 bits");
    assert_eq!(run(&code, 0xc000_00b7, 20, &[]), KILL, "another machine");
}

#[test]
fn a_profile_of_dockers_size_fits_and_is_right() {
    // Every call the tables know but each seventh, three ABIs, and conditions on some.
    let all: Vec<&str> = (0..462).filter_map(syscalls::x86_64::Sysno::new).map(|s| s.name()).collect();
    let allowed: Vec<&str> = all.iter().enumerate().filter(|(i, _)| i % 7 != 0).map(|(_, n)| *n).collect();
    let personality = [0u64, 8, 0x20000, 0x20008, 0xffff_ffff];
    let conditional: Vec<String> = personality
        .iter()
        .map(|v| {
            format!(
                r#"{{"names":["{}"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":{v},"op":"SCMP_CMP_EQ"}}]}}"#,
                all[0]
            )
        })
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{{"names":{},"action":"SCMP_ACT_ALLOW"}},{}]}}"#,
        serde_json::to_string(&allowed).unwrap(),
        conditional.join(",")
    );
    let code = compiled(&json);
    assert!(code.len() < 2500, "{} instructions", code.len());
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        let arch = if abi == Abi::X86 { I386 } else { X86_64 };
        for (i, name) in all.iter().enumerate().skip(1) {
            let Some(number) = names::number(abi, name) else { continue };
            let expected = if i % 7 != 0 { ALLOW } else { EPERM };
            let got = run(&code, arch, number, &[]);
            assert_eq!(got, expected, "{name} {abi:?}");
        }
        let first = names::number(abi, all[0]).unwrap();
        assert_eq!(run(&code, arch, first, &[0x20008]), ALLOW);
        assert_eq!(run(&code, arch, first, &[3]), EPERM);
    }
}

#[test]
fn what_cannot_be_loaded_is_refused() {
    let refused = |json: &str| compile(&serde_json::from_str(json).unwrap()).unwrap_err();
    assert_eq!(refused(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#), Error::Notify);
    let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert_eq!(refused(index), Error::Argument(6));
    assert_eq!(refused(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#), Error::Errno(4096));
    let one = r#"{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
    let long = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, vec![one; 1000].join(","));
    assert!(matches!(refused(&long), Error::TooLong(_)));
}

#[test]
fn flags_are_the_kernels() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    assert_eq!(compile(&serde_json::from_str(json).unwrap()).unwrap().flags, 7);
}
