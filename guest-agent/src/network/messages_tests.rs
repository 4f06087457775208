use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_packet_core::{NetlinkBuffer, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope, RouteVia};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Type, flags beside those that all have, and what it is about.
fn read<T>(message: Message) -> (u16, u16, T)
where
    T: Parseable<[u8]> + Emitable,
{
    let bytes = message.numbered(0x0102_0304);
    let buffer = NetlinkBuffer::new_checked(&bytes).unwrap();
    assert_eq!((buffer.length() as usize, buffer.sequence_number()), (bytes.len(), 0x0102_0304));
    let common = NLM_F_REQUEST | NLM_F_ACK;
    assert_eq!(buffer.flags() & common, common);
    (buffer.message_type(), buffer.flags() & !common, T::parse(buffer.payload()).unwrap())
}

#[test]
fn an_interface_is_renamed_and_moved_in_one_message() {
    let namespace = std::fs::File::open("/dev/null").unwrap();
    let (kind, flags, link) = read::<LinkMessage>(rename(7, "eth0", Some([2, 0, 0, 0, 0, 1]), Some(namespace.as_fd())));
    assert_eq!((kind, flags, link.header.index), (RTM_NEWLINK, 0, 7));
    let expected = [
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    assert_eq!(link.attributes, expected);
    let (_, _, link) = read::<LinkMessage>(rename(7, "net0", None, None));
    assert_eq!(link.attributes, [LinkAttribute::IfName("net0".to_owned())]);
}

#[test]
fn an_interface_gets_its_settings() {
    let (_, _, link) = read::<LinkMessage>(set_mtu(7, 1400));
    assert_eq!((link.header.index, link.attributes), (7, vec![LinkAttribute::Mtu(1400)]));
    let (_, _, link) = read::<LinkMessage>(up(7));
    assert_eq!((link.header.flags, link.header.change_mask), (LinkFlags::Up, LinkFlags::Up));
    let (_, _, link) = read::<LinkMessage>(disable_arp(7, true));
    assert_eq!((link.header.flags, link.header.change_mask), (LinkFlags::Noarp, LinkFlags::Noarp));
    let (_, _, link) = read::<LinkMessage>(disable_arp(7, false));
    assert_eq!((link.header.flags, link.header.change_mask), (LinkFlags::empty(), LinkFlags::Noarp));
}

#[test]
fn addresses_have_their_flags() {
    let four = Address {
        address: ip("10.0.0.2"),
        prefix: 24,
        peer: None,
        broadcast: Some([10, 0, 0, 255].into()),
        scope: 253,
        no_prefix_route: false,
    };
    let (kind, flags, message) = read::<AddressMessage>(address(Verb::Add, 7, &four));
    assert_eq!((kind, flags), (RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL));
    let header = &message.header;
    assert_eq!((header.family, header.prefix_len, header.index), (AddressFamily::Inet, 24, 7));
    assert_eq!(header.scope, AddressScope::Link);
    let expected = [
        AddressAttribute::Local(ip("10.0.0.2")),
        AddressAttribute::Address(ip("10.0.0.2")),
        AddressAttribute::Flags(AddressFlags::empty()),
        AddressAttribute::Broadcast([10, 0, 0, 255].into()),
    ];
    assert_eq!(message.attributes, expected);

    let (kind, _, message) =
        read::<AddressMessage>(address(Verb::Add, 7, &Address { peer: Some(ip("10.9.0.1")), ..four }));
    let ends = [AddressAttribute::Local(ip("10.0.0.2")), AddressAttribute::Address(ip("10.9.0.1"))];
    assert_eq!((kind, &message.attributes[..2]), (RTM_NEWADDR, ends.as_slice()));

    let six =
        Address { address: ip("fd00::2"), prefix: 64, peer: None, broadcast: None, scope: 0, no_prefix_route: true };
    let (kind, flags, message) = read::<AddressMessage>(address(Verb::Delete, 7, &six));
    assert_eq!((kind, flags, message.header.family), (RTM_DELADDR, 0, AddressFamily::Inet6));
    let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
    assert!(message.attributes.contains(&AddressAttribute::Flags(flags)), "{message:?}");
}

fn default_route() -> Route {
    Route {
        window: 5,
        ipv6: false,
        destination: None,
        prefix: 0,
        gateway: Some(ip("10.0.0.1")),
        source: None,
        metric: 0,
        scope: 0,
        on_link: false,
        mtu: 0,
    }
}

#[test]
fn routes_hold_what_they_are_given() {
    let full = Route {
        ipv6: true,
        destination: Some(ip("fd01::")),
        prefix: 48,
        gateway: Some(ip("fd00::1")),
        source: Some(ip("fd00::2")),
        metric: 77,
        on_link: true,
        mtu: 1400,
        ..default_route()
    };
    let (kind, flags, message) = read::<RouteMessage>(route(Verb::Add, 7, &full));
    assert_eq!((kind, flags), (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND));
    let header = &message.header;
    assert_eq!((header.address_family, header.destination_prefix_length), (AddressFamily::Inet6, 48));
    assert_eq!((header.table, header.protocol, header.kind), (254, RouteProtocol::Boot, RouteType::Unicast));
    assert_eq!((header.scope, header.flags), (RouteScope::Universe, RouteFlags::Onlink));
    let expected = [
        RouteAttribute::Oif(7),
        RouteAttribute::Destination(ip("fd01::").into()),
        RouteAttribute::Gateway(ip("fd00::1").into()),
        RouteAttribute::PrefSource(ip("fd00::2").into()),
        RouteAttribute::Priority(77),
        RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
    ];
    assert_eq!(message.attributes, expected);
}

#[test]
fn an_ipv4_route_leads_to_a_neighbour_of_ipv6() {
    let (_, _, message) =
        read::<RouteMessage>(route(Verb::Add, 7, &Route { gateway: Some(ip("fe80::1")), ..default_route() }));
    assert_eq!(message.header.address_family, AddressFamily::Inet);
    let gateway = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
    assert_eq!(message.attributes, [RouteAttribute::Oif(7), gateway]);
}

#[test]
#[rustfmt::skip]
fn a_default_route_in_bytes() {
    let expected = [
        44, 0, 0, 0, 25, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr: RTM_DELROUTE, REQUEST | ACK
        2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, // rtmsg: AF_INET, RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST
        8, 0, 4, 0, 7, 0, 0, 0, // RTA_OIF
        8, 0, 5, 0, 10, 0, 0, 1, // RTA_GATEWAY
    ];
    assert_eq!(route(Verb::Delete, 7, &default_route()).numbered(9), expected);
}

#[test]
fn neighbours_are_permanent() {
    let one = Neighbour { window: 5, address: ip("10.0.0.9"), mac: [2, 0, 0, 0, 0, 9] };
    let (kind, flags, message) = read::<NeighbourMessage>(neighbour(Verb::Add, 7, &one));
    assert_eq!((kind, flags), (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE));
    let header = &message.header;
    assert_eq!((header.family, header.ifindex), (AddressFamily::Inet, 7));
    assert_eq!(header.state, NeighbourState::Permanent);
    let expected = [
        NeighbourAttribute::Destination(ip("10.0.0.9").into()),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
    ];
    assert_eq!(message.attributes, expected);
    assert_eq!(read::<NeighbourMessage>(neighbour(Verb::Delete, 7, &one)).0, RTM_DELNEIGH);
}
