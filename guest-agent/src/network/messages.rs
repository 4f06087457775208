//! rtnetlink(7) messages for what the agent asks of the kernel.
//!
//! Headers are those of netlink-packet-route; attributes are not: its code for all that there can be in a message would make the agent a
//! seventh of a megabyte larger, which every guest would have to load.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{
    IFA_ADDRESS, IFA_BROADCAST, IFA_FLAGS, IFA_LOCAL, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_NET_NS_FD, NDA_DST,
    NDA_LLADDR, RTA_DST, RTA_GATEWAY, RTA_METRICS, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_VIA, RTM_DELADDR,
    RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE,
};
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressFlags, AddressHeader};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::neighbour::{NeighbourHeader, NeighbourState};
use netlink_packet_route::route::{RouteFlags, RouteHeader, RouteProtocol, RouteType};

use super::description::{Address, Neighbour, Route};

/// Of the attributes in RTA_METRICS (linux/rtnetlink.h).
const RTAX_MTU: u16 = 2;

/// What is to be done with the thing that a message describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make it.
    Add,
    /// Take it away.
    Delete,
}

/// A request for which the kernel sends an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, header: &impl Emitable, attributes: &Attributes) -> Message {
        let attributes = attributes.0.as_slice();
        let mut common = NetlinkHeader::default();
        let start = common.buffer_len();
        let middle = start + header.buffer_len();
        let end = middle + attributes.buffer_len();
        common.length = end as u32;
        common.message_type = kind;
        common.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut bytes = vec![0; end];
        common.emit(&mut bytes[..start]);
        header.emit(&mut bytes[start..middle]);
        attributes.emit(&mut bytes[middle..]);
        Message(bytes)
    }

    /// As it is sent, with a number by which its answer is known.
    pub fn numbered(mut self, number: u32) -> Vec<u8> {
        self.0[8..12].copy_from_slice(&number.to_ne_bytes());
        self.0
    }
}

/// What follows a message's header.
#[derive(Default)]
struct Attributes(Vec<DefaultNla>);

impl Attributes {
    fn with(mut self, kind: u16, value: impl Into<Vec<u8>>) -> Attributes {
        self.0.push(DefaultNla::new(kind, value.into()));
        self
    }

    fn number(self, kind: u16, value: u32) -> Attributes {
        self.with(kind, value.to_ne_bytes())
    }

    fn address(self, kind: u16, address: IpAddr) -> Attributes {
        match address {
            IpAddr::V4(address) => self.with(kind, address.octets()),
            IpAddr::V6(address) => self.with(kind, address.octets()),
        }
    }

    /// If there is one.
    fn maybe<T>(self, value: Option<T>, with: impl FnOnce(Attributes, T) -> Attributes) -> Attributes {
        match value {
            Some(value) => with(self, value),
            None => self,
        }
    }
}

fn link(index: u32, attributes: &Attributes) -> Message {
    Message::new(RTM_NEWLINK, 0, &LinkHeader { index, ..LinkHeader::default() }, attributes)
}

/// Sets one of an interface's flags, or takes it away.
fn set_flag(index: u32, flag: LinkFlags, on: bool) -> Message {
    let flags = if on { flag } else { LinkFlags::empty() };
    let header = LinkHeader { index, flags, change_mask: flag, ..LinkHeader::default() };
    Message::new(RTM_NEWLINK, 0, &header, &Attributes::default())
}

/// Gives an interface another name, and with it another MAC address and another network namespace where they are given.
pub fn rename(index: u32, name: &str, mac: Option<[u8; 6]>, namespace: Option<BorrowedFd<'_>>) -> Message {
    let attributes = Attributes::default()
        .with(IFLA_IFNAME, [name.as_bytes(), &[0]].concat())
        .maybe(mac, |all, mac| all.with(IFLA_ADDRESS, mac))
        .maybe(namespace, |all, fd| all.with(IFLA_NET_NS_FD, fd.as_raw_fd().to_ne_bytes()));
    link(index, &attributes)
}

/// Sets an interface's MTU.
pub fn set_mtu(index: u32, mtu: u32) -> Message {
    link(index, &Attributes::default().number(IFLA_MTU, mtu))
}

/// Brings an interface up.
pub fn up(index: u32) -> Message {
    set_flag(index, LinkFlags::Up, true)
}

/// Has an interface ask nobody for addresses of the link, or ask again.
pub fn disable_arp(index: u32, off: bool) -> Message {
    set_flag(index, LinkFlags::Noarp, off)
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Adds or deletes an interface's address. Nobody else has it: the host has made sure of that for the same address.
pub fn address(verb: Verb, index: u32, given: &Address) -> Message {
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Nodad, given.address.is_ipv6());
    flags.set(AddressFlags::Noprefixroute, given.no_prefix_route);
    let header = AddressHeader {
        family: family(given.address.is_ipv6()),
        prefix_len: given.prefix,
        scope: given.scope.into(),
        index,
        ..AddressHeader::default()
    };
    let attributes = Attributes::default()
        .address(IFA_LOCAL, given.address)
        .address(IFA_ADDRESS, given.peer.unwrap_or(given.address))
        .number(IFA_FLAGS, flags.bits())
        .maybe(given.broadcast, |all, broadcast| all.with(IFA_BROADCAST, broadcast.octets()));
    match verb {
        Verb::Add => Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, &attributes),
        Verb::Delete => Message::new(RTM_DELADDR, 0, &header, &attributes),
    }
}

/// struct rtvia (linux/rtnetlink.h).
fn via(gateway: Ipv6Addr) -> Vec<u8> {
    [(libc::AF_INET6 as u16).to_ne_bytes().as_slice(), &gateway.octets()].concat()
}

/// Adds or deletes a route. Appended, as there can be several to one destination: those that the container's programs have made
/// themselves stay before it.
pub fn route(verb: Verb, index: u32, given: &Route) -> Message {
    let header = RouteHeader {
        address_family: family(given.ipv6),
        destination_prefix_length: given.prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: given.scope.into(),
        kind: RouteType::Unicast,
        flags: if given.on_link { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let not_zero = |value: u32| (value != 0).then_some(value);
    let mtu = not_zero(given.mtu).map(|mtu| {
        let metrics = Attributes::default().number(RTAX_MTU, mtu).0;
        let mut bytes = vec![0; metrics.as_slice().buffer_len()];
        metrics.as_slice().emit(&mut bytes);
        bytes
    });
    let attributes = Attributes::default()
        .number(RTA_OIF, index)
        .maybe(given.destination, |all, destination| all.address(RTA_DST, destination))
        .maybe(given.gateway, |all, gateway| match gateway {
            IpAddr::V6(gateway) if !given.ipv6 => all.with(RTA_VIA, via(gateway)),
            gateway => all.address(RTA_GATEWAY, gateway),
        })
        .maybe(given.source, |all, source| all.address(RTA_PREFSRC, source))
        .maybe(not_zero(given.metric), |all, metric| all.number(RTA_PRIORITY, metric))
        .maybe(mtu, |all, mtu| all.with(RTA_METRICS, mtu));
    match verb {
        Verb::Add => Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &header, &attributes),
        Verb::Delete => Message::new(RTM_DELROUTE, 0, &header, &attributes),
    }
}

/// Adds a permanent entry for a neighbour, in the place of what is there, or deletes it.
pub fn neighbour(verb: Verb, index: u32, given: &Neighbour) -> Message {
    let header = NeighbourHeader {
        family: family(given.address.is_ipv6()),
        ifindex: index,
        state: NeighbourState::Permanent,
        ..NeighbourHeader::default()
    };
    let attributes = Attributes::default().address(NDA_DST, given.address).with(NDA_LLADDR, given.mac);
    match verb {
        Verb::Add => Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header, &attributes),
        Verb::Delete => Message::new(RTM_DELNEIGH, 0, &header, &attributes),
    }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
