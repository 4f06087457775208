use std::io;

use super::*;

const TARGET: Target = Target { udp: 40_001, tcp: 40_002, cookie: 0xfedc_ba98_7654_3210 };

/// An address as a program gives or gets it: words of struct bpf_sock_addr.
#[derive(Clone, Copy)]
struct Passing {
    words: [u32; 18],
    cookie: u64,
}

fn passing(form: Form, address: [u8; 4], port: u16, kind: i32) -> Passing {
    let mut words = [0; 18];
    match form {
        Form::V4 => words[1] = u32::from_ne_bytes(address),
        Form::Mapped => {
            words[4] = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
            words[5] = u32::from_ne_bytes(address);
        }
    }
    words[6] = u32::from(port.to_be());
    words[8] = kind as u32;
    Passing { words, cookie: TARGET.cookie }
}

/// Runs a program as the kernel would, and gives the port after it.
fn run(code: &[u64], passing: Passing) -> u16 {
    const POINTER: u64 = 0x1000;
    let mut words = passing.words;
    let mut registers = [0_u64; 11];
    registers[1] = POINTER;
    let mut at = 0;
    for _ in 0..code.len() {
        let insn = code[at];
        let (dst, src) = ((insn >> 8 & 15) as usize, (insn >> 12 & 15) as usize);
        let (offset, value) = ((insn >> 16) as u16 as usize, insn >> 32);
        at += 1;
        match insn as u8 {
            LOAD_WORD => {
                assert_eq!(registers[src], POINTER);
                registers[dst] = words[offset / 4].into();
            }
            STORE_WORD => {
                assert_eq!((registers[dst], offset), (POINTER, 24));
                words[offset / 4] = registers[src] as u32;
            }
            COPY_LONG => registers[dst] = registers[src],
            MOVE => registers[dst] = value,
            0x18 => {
                registers[dst] = value | code[at] >> 32 << 32;
                at += 1;
            }
            CALL => {
                assert_eq!((value as i32, registers[1]), (GET_NETNS_COOKIE, POINTER));
                // Lost.
                registers[1..=5].fill(u64::MAX);
                registers[0] = passing.cookie;
            }
            IF_NOT_EQUAL if registers[dst] as u32 != value as u32 => at += offset,
            IF_NOT_EQUAL_LONG if registers[dst] != registers[src] => at += offset,
            IF_NOT_EQUAL | IF_NOT_EQUAL_LONG => {}
            EXIT => {
                assert_eq!(registers[0], 1, "nothing is refused");
                return u16::from_be(words[6] as u16);
            }
            other => panic!("unknown operation {other:#x}"),
        }
    }
    panic!("the program does not end");
}

const RESOLVER: [u8; 4] = [127, 0, 0, 11];
const UDP: i32 = libc::SOCK_DGRAM;
const TCP: i32 = libc::SOCK_STREAM;

#[test]
fn the_resolver_is_found_at_the_agents_ports() {
    for form in [Form::V4, Form::Mapped] {
        let code = generate(Direction::Down, form, TARGET);
        assert_eq!(run(&code, passing(form, RESOLVER, 53, UDP)), 40_001);
        assert_eq!(run(&code, passing(form, RESOLVER, 53, TCP)), 40_002);
        assert_eq!(run(&code, passing(form, RESOLVER, 53, libc::SOCK_RAW)), 53);
        assert_eq!(run(&code, passing(form, RESOLVER, 54, UDP)), 54);
        assert_eq!(run(&code, passing(form, [127, 0, 0, 1], 53, UDP)), 53);
    }
}

#[test]
fn answers_come_from_the_port_that_was_asked() {
    for form in [Form::V4, Form::Mapped] {
        let code = generate(Direction::Up, form, TARGET);
        assert_eq!(run(&code, passing(form, RESOLVER, 40_001, UDP)), 53);
        assert_eq!(run(&code, passing(form, RESOLVER, 40_002, TCP)), 53);
        assert_eq!(run(&code, passing(form, RESOLVER, 40_002, UDP)), 40_002);
        assert_eq!(run(&code, passing(form, RESOLVER, 40_001, TCP)), 40_001);
        assert_eq!(run(&code, passing(form, [127, 0, 0, 12], 40_001, UDP)), 40_001);
    }
}

#[test]
fn only_mapped_addresses_are_of_ipv4() {
    let code = generate(Direction::Down, Form::Mapped, TARGET);
    let mut other = passing(Form::Mapped, RESOLVER, 53, UDP);
    other.words[2] = 1;
    assert_eq!(run(&code, other), 53);
}

#[test]
fn other_network_namespaces_have_their_own() {
    let code = generate(Direction::Down, Form::V4, TARGET);
    for bit in [0, 31, 32, 63] {
        let elsewhere = Passing { cookie: TARGET.cookie ^ 1 << bit, ..passing(Form::V4, RESOLVER, 53, UDP) };
        assert_eq!(run(&code, elsewhere), 53, "bit {bit}");
    }
}

/// Without the privilege to load programs there is nothing to be tested.
#[test]
fn the_kernel_takes_the_programs() {
    for (place, direction, form) in PLACES {
        match sys::bpf_load(BpfKind::SocketAddress(place), &generate(direction, form, TARGET)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            loaded => drop(loaded.unwrap_or_else(|error| panic!("place {place}: {error}"))),
        }
    }
}
