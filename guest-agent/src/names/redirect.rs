//! Programs ask 127.0.0.11 port 53, and the agent's sockets have other ports, so that programs can have port 53 for themselves: eBPF
//! programs on the container's cgroup put the one in the place of the other where an address passes between program and kernel.
//!
//! Other network namespaces can have a resolver at the same address (docker in the container): what is in one of them is left alone.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Sockets;
use crate::bpf::{
    CALL, COPY_LONG, EXIT, IF_NOT_EQUAL, IF_NOT_EQUAL_LONG, LOAD_WORD, MOVE, STORE_WORD, insn, load_long,
};
use crate::sys::{self, BpfKind};

/// Where programs believe the resolver to be.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;

/// Which way an address passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// From a program: the resolver's port becomes the agent's.
    Down,
    /// To a program: the agent's becomes the resolver's.
    Up,
}

/// How an address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V4,
    /// By a socket of IPv6, as ::ffff:127.0.0.11.
    Mapped,
}

/// BPF_CGROUP_… of connect(2), sendmsg(2), recvmsg(2) and getpeername(2). (Sending to a mapped address is a case for UDP4_SENDMSG.)
const PLACES: [(u32, Direction, Form); 7] = [
    (10, Direction::Down, Form::V4),     // INET4_CONNECT
    (11, Direction::Down, Form::Mapped), // INET6_CONNECT
    (14, Direction::Down, Form::V4),     // UDP4_SENDMSG
    (19, Direction::Up, Form::V4),       // UDP4_RECVMSG
    (20, Direction::Up, Form::Mapped),   // UDP6_RECVMSG
    (29, Direction::Up, Form::V4),       // INET4_GETPEERNAME
    (30, Direction::Up, Form::Mapped),   // INET6_GETPEERNAME
];

/// Lasts until it is dropped, or the cgroup is removed.
pub struct Redirection {
    _links: Vec<OwnedFd>,
}

/// The agent's ports, and by what the programs know their network namespace.
#[derive(Clone, Copy, Debug)]
struct Target {
    udp: u16,
    tcp: u16,
    cookie: u64,
}

impl Redirection {
    /// For all processes in the cgroup and below that are in the sockets' network namespace.
    pub fn begin(sockets: &Sockets, cgroup: BorrowedFd<'_>) -> io::Result<Redirection> {
        let target = Target {
            udp: sockets.udp.local_addr()?.port(),
            tcp: sockets.tcp.local_addr()?.port(),
            cookie: sys::network_cookie(sockets.udp.as_fd())?,
        };
        let link = |(place, direction, form)| {
            let program = sys::bpf_load(BpfKind::SocketAddress(place), &generate(direction, form, target))?;
            sys::bpf_link(program.as_fd(), cgroup, place)
        };
        Ok(Redirection { _links: PLACES.into_iter().map(link).collect::<io::Result<_>>()? })
    }
}

// struct bpf_sock_addr. Addresses and ports are in network byte order.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const TYPE: i16 = 32;

// Registers. Those from 6 on survive a call.
const RESULT: u8 = 0;
const ARGUMENT: u8 = 1;
const SCRATCH: u8 = 2;
const CONTEXT: u8 = 6;
const PORT_NOW: u8 = 7;
const KIND: u8 = 8;

const GET_NETNS_COOKIE: i32 = 122; // BPF_FUNC_get_netns_cookie

fn generate(direction: Direction, form: Form, target: Target) -> Vec<u64> {
    let mut code = vec![insn(COPY_LONG, CONTEXT, ARGUMENT, 0, 0)];
    let mut leaves = Vec::new();
    let address = u32::from(ADDRESS).to_be();
    let words = match form {
        Form::V4 => vec![(USER_IP4, address)],
        Form::Mapped => {
            vec![(USER_IP6, 0), (USER_IP6 + 4, 0), (USER_IP6 + 8, 0xffff_u32.to_be()), (USER_IP6 + 12, address)]
        }
    };
    for (offset, value) in words {
        code.push(insn(LOAD_WORD, SCRATCH, CONTEXT, offset, 0));
        leaves.push(code.len());
        code.push(insn(IF_NOT_EQUAL, SCRATCH, 0, 0, value as i32));
    }
    code.extend([insn(COPY_LONG, ARGUMENT, CONTEXT, 0, 0), insn(CALL, 0, 0, 0, GET_NETNS_COOKIE)]);
    code.extend(load_long(SCRATCH, target.cookie));
    leaves.push(code.len());
    code.push(insn(IF_NOT_EQUAL_LONG, RESULT, SCRATCH, 0, 0));
    code.push(insn(LOAD_WORD, PORT_NOW, CONTEXT, USER_PORT, 0));
    code.push(insn(LOAD_WORD, KIND, CONTEXT, TYPE, 0));
    let network_order = |port: u16| i32::from(port.to_be());
    for (kind, port) in [(libc::SOCK_DGRAM, target.udp), (libc::SOCK_STREAM, target.tcp)] {
        let (from, to) = match direction {
            Direction::Down => (PORT, port),
            Direction::Up => (port, PORT),
        };
        code.extend([
            insn(IF_NOT_EQUAL, KIND, 0, 3, kind),
            insn(IF_NOT_EQUAL, PORT_NOW, 0, 2, network_order(from)),
            insn(MOVE, SCRATCH, 0, 0, network_order(to)),
            insn(STORE_WORD, CONTEXT, SCRATCH, USER_PORT, 0),
        ]);
    }
    // All that leave come here: nothing is ever refused.
    for at in leaves {
        code[at] |= ((code.len() - at - 1) as u64) << 16;
    }
    code.extend([insn(MOVE, RESULT, 0, 0, 1), insn(EXIT, 0, 0, 0, 0)]);
    code
}

#[cfg(test)]
#[path = "redirect_tests.rs"]
mod tests;
