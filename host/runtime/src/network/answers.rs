//! What comes in for the host's side of a container's network, and not for the guest. Docker's resolver at 127.0.0.11 asks servers elsewhere
//! by sockets in the container's network namespace on the host, from the container's own address: their answers must not end in the
//! guest, which knows nothing of the questions.
//!
//! An eBPF program (tc-bpf(8)), run before the redirect, finds them: what comes from port 53 and belongs to a connected socket of the
//! namespace. The guest has none of these, and cannot make any. For the host's side to find its neighbours, what they say of their
//! addresses (ARP, NDP) goes to both.

use std::io;
use std::os::fd::OwnedFd;

use super::sys;

/// Where servers for names answer from.
const PORT: u16 = 53;

/// linux/if_ether.h.
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// linux/if_arp.h.
const ARPOP_REPLY: u16 = 2;
/// Neighbour Advertisement (RFC 4861, 4.4).
const NEIGHBOUR_ADVERTISEMENT: i32 = 136;
/// Of an IPv4 header's field of fragments: where in the packet this one belongs.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// linux/pkt_cls.h: to the host's stack; to the next action, which is the redirect.
const TC_ACT_OK: i32 = 0;
pub(super) const TC_ACT_PIPE: i32 = 3;
/// net/tcp_states.h: of UDP sockets those that are not connected, and of TCP those that listen.
const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// linux/bpf.h.
const BPF_FUNC_CLONE_REDIRECT: i32 = 13;
const BPF_FUNC_SKB_LOAD_BYTES_RELATIVE: i32 = 68;
const BPF_FUNC_SK_LOOKUP_TCP: i32 = 84;
const BPF_FUNC_SK_LOOKUP_UDP: i32 = 85;
const BPF_FUNC_SK_RELEASE: i32 = 86;
const BPF_HDR_START_NET: i32 = 1;
const BPF_F_CURRENT_NETNS: i32 = -1;
/// In struct __sk_buff, and in struct bpf_sock.
const PROTOCOL: i16 = 16;
const STATE: i16 = 72;

// Instructions.
const LOAD_BYTE: u8 = 0x71; // BPF_LDX | BPF_MEM | BPF_B
const LOAD_HALF: u8 = 0x69; // BPF_LDX | BPF_MEM | BPF_H
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_LEFT: u8 = 0x64; // BPF_ALU | BPF_LSH | BPF_K
const ADD: u8 = 0x07; // BPF_ALU64 | BPF_ADD | BPF_K
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const COPY: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const IF_NOT_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const IF_ANY_BIT: u8 = 0x46; // BPF_JMP32 | BPF_JSET | BPF_K
const IF_NULL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers. Those from 6 on survive a call.
const RESULT: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const THIRD: u8 = 3;
const FOURTH: u8 = 4;
const FIFTH: u8 = 5;
const PACKET: u8 = 6;
const TRANSPORT: u8 = 7;
const LENGTH: u8 = 8;
const TUPLE: u8 = 9;
const STACK: u8 = 10;

/// Lengths of headers, and of struct bpf_sock_tuple, which is their addresses with the ports behind: read to where they meet on the stack.
const IPV4_HEADER: i32 = 20;
const IPV6_HEADER: i32 = 40;
const PORTS: i32 = 4;
const IPV4_TUPLE: i32 = 12;
const IPV6_TUPLE: i32 = 36;

/// Where jumps lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Ipv4,
    Ipv6,
    Ipv6Ports,
    Ask,
    AskTcp,
    Asked,
    /// To the guest and to the host's stack.
    Both,
    /// To the guest: by the redirect.
    Guest,
}

#[derive(Default)]
struct Program {
    code: Vec<u64>,
    jumps: Vec<(usize, Mark)>,
    marks: Vec<(Mark, usize)>,
}

impl Program {
    fn add(&mut self, code: u8, to: u8, from: u8, offset: i16, number: i32) {
        let registers = from << 4 | to;
        let low = u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16;
        self.code.push(low | u64::from(number as u32) << 32);
    }

    fn jump(&mut self, condition: u8, register: u8, number: i32, to: Mark) {
        self.jumps.push((self.code.len(), to));
        self.add(condition, register, 0, 0, number);
    }

    fn mark(&mut self, mark: Mark) {
        self.marks.push((mark, self.code.len()));
    }

    /// `register` is an address on the stack.
    fn stack(&mut self, register: u8, offset: i32) {
        self.add(COPY, register, STACK, 0, 0);
        self.add(ADD, register, 0, 0, offset);
    }

    /// Reads from the packet, from where the second register says behind the link's header, to the stack; one that is shorter is the guest's.
    fn read(&mut self, to: i32, length: i32) {
        self.add(COPY, FIRST, PACKET, 0, 0);
        self.stack(THIRD, to);
        self.add(SET, FOURTH, 0, 0, length);
        self.add(SET, FIFTH, 0, 0, BPF_HDR_START_NET);
        self.add(CALL, 0, 0, 0, BPF_FUNC_SKB_LOAD_BYTES_RELATIVE);
        self.jump(IF_NOT_EQUAL, RESULT, 0, Mark::Guest);
    }

    fn read_from(&mut self, from: i32, to: i32, length: i32) {
        self.add(SET, SECOND, 0, 0, from);
        self.read(to, length);
    }

    fn end(&mut self, action: i32) {
        self.add(SET, RESULT, 0, 0, action);
        self.add(EXIT, 0, 0, 0, 0);
    }

    fn finish(mut self) -> Vec<u64> {
        for (at, to) in self.jumps {
            let target = self.marks.iter().find(|(mark, _)| *mark == to).map_or(0, |(_, place)| *place);
            if let Some(jump) = self.code.get_mut(at) {
                // All lead forward.
                *jump |= (target.saturating_sub(at + 1) as u64 & 0xffff) << 16;
            }
        }
        self.code
    }
}

fn big_endian(number: u16) -> i32 {
    i32::from(number.to_be())
}

/// The program for an interface whose frames go to the tap with this number. It is gone when the rule that runs it is.
pub fn load(tap: u32) -> io::Result<OwnedFd> {
    sys::load_action(&program(i32::try_from(tap).map_err(io::Error::other)?))
}

fn program(tap: i32) -> Vec<u64> {
    let mut program = Program::default();
    program.add(COPY, PACKET, FIRST, 0, 0);
    program.add(LOAD_WORD, SECOND, PACKET, PROTOCOL, 0);
    arp(&mut program);
    ipv4(&mut program);
    ipv6(&mut program);
    ask(&mut program);
    program.mark(Mark::Both);
    program.add(COPY, FIRST, PACKET, 0, 0);
    program.add(SET, SECOND, 0, 0, tap);
    program.add(SET, THIRD, 0, 0, 0);
    program.add(CALL, 0, 0, 0, BPF_FUNC_CLONE_REDIRECT);
    program.end(TC_ACT_OK);
    program.mark(Mark::Guest);
    program.end(TC_ACT_PIPE);
    program.finish()
}

fn arp(program: &mut Program) {
    const OPERATION: i32 = 6;
    program.jump(IF_NOT_EQUAL, SECOND, big_endian(ETH_P_ARP), Mark::Ipv4);
    program.read_from(OPERATION, -PORTS, 2);
    program.add(LOAD_HALF, SECOND, STACK, -PORTS as i16, 0);
    program.jump(IF_EQUAL, SECOND, big_endian(ARPOP_REPLY), Mark::Both);
    program.jump(JUMP, 0, 0, Mark::Guest);
}

fn ipv4(program: &mut Program) {
    const HEADER: i32 = -(IPV4_HEADER + PORTS);
    program.mark(Mark::Ipv4);
    program.jump(IF_NOT_EQUAL, SECOND, big_endian(ETH_P_IP), Mark::Ipv6);
    program.read_from(0, HEADER, IPV4_HEADER);
    program.add(LOAD_BYTE, TRANSPORT, STACK, HEADER as i16 + 9, 0);
    program.add(LOAD_HALF, SECOND, STACK, HEADER as i16 + 6, 0);
    program.jump(IF_ANY_BIT, SECOND, big_endian(FRAGMENT_OFFSET), Mark::Guest);
    // The header's length is given in words.
    program.add(LOAD_BYTE, SECOND, STACK, HEADER as i16, 0);
    program.add(AND, SECOND, 0, 0, 0xf);
    program.add(SHIFT_LEFT, SECOND, 0, 0, 2);
    program.read(-PORTS, PORTS);
    program.stack(TUPLE, -IPV4_TUPLE);
    program.add(SET, LENGTH, 0, 0, IPV4_TUPLE);
    program.jump(JUMP, 0, 0, Mark::Ask);
}

/// Without extension headers: servers for names send none.
fn ipv6(program: &mut Program) {
    const HEADER: i32 = -(IPV6_HEADER + PORTS);
    program.mark(Mark::Ipv6);
    program.jump(IF_NOT_EQUAL, SECOND, big_endian(ETH_P_IPV6), Mark::Guest);
    program.read_from(0, HEADER, IPV6_HEADER);
    program.add(LOAD_BYTE, TRANSPORT, STACK, HEADER as i16 + 6, 0);
    program.jump(IF_NOT_EQUAL, TRANSPORT, libc::IPPROTO_ICMPV6, Mark::Ipv6Ports);
    program.read_from(IPV6_HEADER, -PORTS, 1);
    program.add(LOAD_BYTE, SECOND, STACK, -PORTS as i16, 0);
    program.jump(IF_EQUAL, SECOND, NEIGHBOUR_ADVERTISEMENT, Mark::Both);
    program.jump(JUMP, 0, 0, Mark::Guest);
    program.mark(Mark::Ipv6Ports);
    program.read_from(IPV6_HEADER, -PORTS, PORTS);
    program.stack(TUPLE, -IPV6_TUPLE);
    program.add(SET, LENGTH, 0, 0, IPV6_TUPLE);
}

/// Whether there is a socket to which the packet belongs.
fn ask(program: &mut Program) {
    program.mark(Mark::Ask);
    program.add(LOAD_HALF, SECOND, STACK, -PORTS as i16, 0);
    program.jump(IF_NOT_EQUAL, SECOND, big_endian(PORT), Mark::Guest);
    program.add(COPY, FIRST, PACKET, 0, 0);
    program.add(COPY, SECOND, TUPLE, 0, 0);
    program.add(COPY, THIRD, LENGTH, 0, 0);
    program.add(SET, FOURTH, 0, 0, BPF_F_CURRENT_NETNS);
    program.add(SET, FIFTH, 0, 0, 0);
    program.jump(IF_NOT_EQUAL, TRANSPORT, libc::IPPROTO_UDP, Mark::AskTcp);
    program.add(CALL, 0, 0, 0, BPF_FUNC_SK_LOOKUP_UDP);
    program.jump(JUMP, 0, 0, Mark::Asked);
    program.mark(Mark::AskTcp);
    program.jump(IF_NOT_EQUAL, TRANSPORT, libc::IPPROTO_TCP, Mark::Guest);
    program.add(CALL, 0, 0, 0, BPF_FUNC_SK_LOOKUP_TCP);
    program.mark(Mark::Asked);
    program.jump(IF_NULL, RESULT, 0, Mark::Guest);
    program.add(LOAD_WORD, TRANSPORT, RESULT, STATE, 0);
    program.add(COPY, FIRST, RESULT, 0, 0);
    program.add(CALL, 0, 0, 0, BPF_FUNC_SK_RELEASE);
    program.jump(IF_EQUAL, TRANSPORT, TCP_CLOSE, Mark::Guest);
    program.jump(IF_EQUAL, TRANSPORT, TCP_LISTEN, Mark::Guest);
    program.end(TC_ACT_OK);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkFlags, LinkMessage};

    use super::super::netlink::Netlink;
    use super::*;

    const LOOPBACK: u32 = 1;

    /// What the program says of a frame.
    type Run<'a> = &'a dyn Fn(&[u8]) -> i32;

    /// In a network namespace of its own, where there is the privilege to make one and to load programs.
    fn with_program(test: fn(Run<'_>)) {
        let tested = std::thread::spawn(move || {
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let mut up = LinkMessage::default();
            up.header.index = LOOPBACK;
            up.header.flags = LinkFlags::Up;
            up.header.change_mask = LinkFlags::Up;
            Netlink::new().unwrap().change(RouteNetlinkMessage::SetLink(up), 0).unwrap();
            match load(LOOPBACK) {
                Ok(program) => test(&|frame: &[u8]| sys::run_action(program.as_fd(), frame).unwrap()),
                // A program that the kernel does not take is a defect of ours, not a lack of rights.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
            }
        });
        tested.join().unwrap();
    }

    fn frame(protocol: u16, parts: &[&[u8]]) -> Vec<u8> {
        let mut frame = [[2; 12].as_slice(), &protocol.to_be_bytes(), &parts.concat()].concat();
        // What follows the ports.
        frame.extend([0; 40]);
        frame
    }

    /// From `from` to `to`, with so many words of options.
    fn packet(transport: i32, from: SocketAddr, to: SocketAddr, options: u8, fragment: u16) -> Vec<u8> {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let start = [0x45 + options, 0, 0, 80, 0, 0];
                let rest = [64, transport as u8, 0, 0];
                let (from, to) = (from.ip().octets(), to.ip().octets());
                let options = vec![1; usize::from(options) * 4];
                frame(ETH_P_IP, &[&start, &fragment.to_be_bytes(), &rest, &from, &to, &options, &ports])
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let start = [0x60, 0, 0, 0, 0, 44, transport as u8, 64];
                frame(ETH_P_IPV6, &[&start, &from.ip().octets(), &to.ip().octets(), &ports])
            }
            _ => unreachable!("of one family"),
        }
    }

    fn server(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), PORT)
    }

    #[test]
    fn answers_to_the_namespaces_own_questions_stay_on_the_host() {
        with_program(|run| {
            for (local, remote) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
                let asks = UdpSocket::bind((local, 0)).unwrap();
                let (from, to) = (server(remote), asks.local_addr().unwrap());
                let answer = packet(libc::IPPROTO_UDP, from, to, 0, 0);
                assert_eq!(run(&answer), TC_ACT_PIPE, "not connected");
                asks.connect(from).unwrap();
                assert_eq!(run(&answer), TC_ACT_OK);
                let mut other = to;
                other.set_port(to.port() ^ 1);
                assert_eq!(run(&packet(libc::IPPROTO_UDP, from, other, 0, 0)), TC_ACT_PIPE, "another's port");
                assert_eq!(run(&packet(libc::IPPROTO_TCP, from, to, 0, 0)), TC_ACT_PIPE, "another protocol");
                let elsewhere = SocketAddr::new(from.ip(), 54);
                asks.connect(elsewhere).unwrap();
                assert_eq!(run(&packet(libc::IPPROTO_UDP, elsewhere, to, 0, 0)), TC_ACT_PIPE, "no server for names");
            }
        });
    }

    #[test]
    fn options_and_fragments_are_told_apart() {
        with_program(|run| {
            let asks = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let (from, to) = (server("127.0.0.2"), asks.local_addr().unwrap());
            asks.connect(from).unwrap();
            assert_eq!(run(&packet(libc::IPPROTO_UDP, from, to, 3, 0)), TC_ACT_OK);
            // The first one, and a later one, in which no ports are.
            assert_eq!(run(&packet(libc::IPPROTO_UDP, from, to, 0, 0x2000)), TC_ACT_OK);
            assert_eq!(run(&packet(libc::IPPROTO_UDP, from, to, 0, 0x2001)), TC_ACT_PIPE);
            // Cut off behind the header, and of no protocol that counts.
            for length in 34..38 {
                assert_eq!(run(&packet(libc::IPPROTO_UDP, from, to, 0, 0)[..length]), TC_ACT_PIPE, "{length}");
            }
            assert_eq!(run(&frame(0x88cc, &[])), TC_ACT_PIPE);
        });
    }

    #[test]
    fn streams_are_known_by_their_connection() {
        with_program(|run| {
            let listener = TcpListener::bind(server("127.0.0.2")).unwrap();
            let from = listener.local_addr().unwrap();
            let asks = TcpStream::connect(from).unwrap();
            let to = asks.local_addr().unwrap();
            assert_eq!(run(&packet(libc::IPPROTO_TCP, from, to, 0, 0)), TC_ACT_OK);
            // One that listens is nobody who asks.
            assert_eq!(run(&packet(libc::IPPROTO_TCP, server("127.0.0.9"), from, 0, 0)), TC_ACT_PIPE);
        });
    }

    #[test]
    fn neighbours_answers_go_to_both() {
        with_program(|run| {
            let arp = |operation: u16| frame(ETH_P_ARP, &[&[0, 1, 8, 0, 6, 4], &operation.to_be_bytes(), &[0; 20]]);
            assert_eq!((run(&arp(ARPOP_REPLY)), run(&arp(1))), (TC_ACT_OK, TC_ACT_PIPE));
            let ndp = |kind: u8| {
                let start = [0x60, 0, 0, 0, 0, 24, libc::IPPROTO_ICMPV6 as u8, 255];
                let address = Ipv6Addr::LOCALHOST.octets();
                frame(ETH_P_IPV6, &[&start, &address, &address, &[kind, 0, 0, 0]])
            };
            // An answer, a question, and what a router announces.
            assert_eq!([136, 135, 134].map(|kind| run(&ndp(kind))), [TC_ACT_OK, TC_ACT_PIPE, TC_ACT_PIPE]);
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            assert_eq!(run(&packet(libc::IPPROTO_ICMP, server("127.0.0.2"), to, 0, 0)), TC_ACT_PIPE);
        });
    }
}
