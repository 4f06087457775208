use super::*;

/// Runs a program as the kernel would; panics on code that the generator should not write.
fn run(code: &[u64], kind: i32, major: i32, minor: i32, access: u32) -> bool {
    let context = [access << 16 | kind as u32, major as u32, minor as u32];
    let mut registers = [0u32; 11];
    let mut pc = 0usize;
    for _ in 0..100_000 {
        let insn = code[pc];
        let (dst, offset) = ((insn >> 8 & 15) as usize, (insn >> 16) as u16 as i16);
        let (src, imm) = ((insn >> 12 & 15) as usize, (insn >> 32) as u32);
        pc += 1;
        let jump = match insn as u8 {
            LOAD_WORD => {
                registers[dst] = context[offset as usize / 4];
                false
            }
            AND => {
                registers[dst] &= imm;
                false
            }
            SHIFT_RIGHT => {
                registers[dst] >>= imm;
                false
            }
            MOVE => {
                registers[dst] = imm;
                false
            }
            COPY => {
                registers[dst] = registers[src];
                false
            }
            IF_NOT_EQUAL => registers[dst] != imm,
            IF_ANY_BIT => registers[dst] & imm != 0,
            JUMP => true,
            EXIT => return registers[0] == 1,
            other => panic!("unknown operation {other:#x}"),
        };
        if jump {
            assert!(offset >= 0, "jumps go forward only");
            pc += offset as usize;
        }
    }
    panic!("the program does not end");
}

fn rules(json: &str) -> Vec<u64> {
    generate(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
}

#[test]
fn without_rules_the_defaults_hold() {
    let code = rules("[]");
    assert!(run(&code, CHARACTER, 1, 3, READ | WRITE), "/dev/null");
    assert!(run(&code, CHARACTER, 136, 7, READ | WRITE), "/dev/pts/7");
    assert!(run(&code, BLOCK, 8, 0, MKNOD), "making nodes is harmless");
    assert!(!run(&code, BLOCK, 8, 0, READ));
    assert!(!run(&code, CHARACTER, 10, 229, READ | WRITE), "/dev/fuse");
    assert!(!run(&code, CHARACTER, 1, 1, MKNOD | READ), "/dev/mem");
}

#[test]
fn everything_may_be_allowed() {
    let code = rules(r#"[{"allow":true,"access":"rwm"}]"#);
    assert!(run(&code, BLOCK, 8, 0, READ | WRITE | MKNOD));
    assert!(run(&code, CHARACTER, 1, 1, READ));
}

#[test]
fn the_last_rule_counts_for_each_access() {
    let code = rules(
        r#"[{"allow":true,"type":"a"},
            {"allow":false,"type":"b","major":8,"access":"w"},
            {"allow":true,"type":"b","major":8,"minor":1,"access":"w"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#,
    );
    assert!(run(&code, BLOCK, 8, 0, READ));
    assert!(!run(&code, BLOCK, 8, 0, READ | WRITE));
    assert!(run(&code, BLOCK, 8, 1, READ | WRITE));
    assert!(!run(&code, CHARACTER, 10, 229, READ));
    assert!(run(&code, CHARACTER, 10, 228, READ));
}

#[test]
fn accesses_allowed_one_by_one_add_up() {
    let docker = r#"[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":10,"minor":200,"access":"r"},
        {"allow":true,"type":"c","major":10,"minor":200,"access":"w"}]"#;
    let code = rules(docker);
    assert!(run(&code, CHARACTER, 10, 200, READ | WRITE));
    assert!(!run(&code, CHARACTER, 10, 201, READ | WRITE));
    assert!(run(&code, CHARACTER, 5, 2, READ | WRITE), "/dev/ptmx, although all is denied first");
}

#[test]
fn numbers_below_zero_mean_any() {
    let code = rules(r#"[{"allow":true,"type":"c","major":-1,"minor":-1,"access":"rwm"}]"#);
    assert!(run(&code, CHARACTER, 99, 99, READ));
    assert!(!run(&code, BLOCK, 99, 99, READ));
}

#[test]
fn a_thousand_rules_are_still_a_program() {
    let one = r#"{"allow":true,"type":"c","major":99,"minor":1,"access":"rw"}"#;
    let code = rules(&format!("[{}]", vec![one; 1000].join(",")));
    assert!(run(&code, CHARACTER, 99, 1, READ));
}
