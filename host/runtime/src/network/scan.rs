//! What a network namespace holds, in the words of the call by which the guest gets the same.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use agent_protocol::agent::{Ipv6Off, NetworkAddress, NetworkInterface, NetworkNeighbour, NetworkRoute};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, IpVlanMode, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::settings::Settings;
use super::subnets::Subnets;
use super::{NetworkError, ipv6, tap};

/// An interface that the guest is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// All but its window.
    pub interface: NetworkInterface,
    /// It passes on only the multicast groups that somebody has asked for. The other end of a pair takes all.
    pub chooses_groups: bool,
}

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    /// Interfaces that are up and speak Ethernet, in the order of their numbers.
    pub links: Vec<Link>,
    /// Routes that somebody has set: those of the subnets come with the addresses.
    pub routes: Vec<NetworkRoute>,
    /// Neighbours that somebody has set.
    pub neighbours: Vec<NetworkNeighbour>,
    /// Numbers of taps such as this program makes.
    pub taps: Vec<u32>,
    /// Where there is no IPv6, beside the links.
    pub ipv6_off: Ipv6Off,
}

/// Looks at the namespace in which `netlink` was opened, which must be this thread's.
pub fn scan(netlink: &mut Netlink) -> Result<Namespace, NetworkError> {
    let mut found = Namespace { ipv6_off: ipv6::off(), ..Namespace::default() };
    let ask = |netlink: &mut Netlink, what, message| netlink.list(message).map_err(NetworkError::scan(what));
    let mut usual = Settings::default();
    for message in ask(netlink, "links", RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        let RouteNetlinkMessage::NewLink(link) = message else { continue };
        if link.header.flags.contains(LinkFlags::Loopback) {
            // In the order of their numbers `lo` is the first.
            usual = Settings::of(&link);
        } else if is_tap(&link) {
            found.taps.push(link.header.index);
        } else if let Some(mut one) = shown(&link) {
            if passes_by(&link) {
                return Err(NetworkError::PassesBy(one.interface.name));
            }
            one.interface.settings = Settings::of(&link).changed(&usual);
            found.links.push(one);
        }
    }
    found.links.sort_by_key(|link| link.index);
    if found.links.is_empty() {
        return Ok(found);
    }
    for message in ask(netlink, "addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        let RouteNetlinkMessage::NewAddress(address) = message else { continue };
        let link = found.links.iter_mut().find(|link| link.index == address.header.index);
        if let Some(interface) = link.map(|link| &mut link.interface) {
            interface.addresses.extend(address_of(&address, &interface.mac));
        }
    }
    let mut subnets = Subnets::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for message in ask(netlink, "routes", RouteNetlinkMessage::GetRoute(request))? {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            subnets.take(&route);
            found.routes.extend(route_of(&route, &found.links));
        }
    }
    for link in &mut found.links {
        subnets.leave_out(link);
    }
    for link in &mut found.links {
        in_order_of_making(&mut link.interface.addresses);
    }
    leave_out_sources(&mut found);
    // A gateway is reached by a route that is there before.
    found.routes.sort_by_key(|route| (!route.gateway.is_empty(), route.prefix_length == 0));
    for message in ask(netlink, "neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
        let RouteNetlinkMessage::NewNeighbour(neighbour) = message else { continue };
        found.neighbours.extend(neighbour_of(&neighbour, &found.links));
    }
    Ok(found)
}

/// What a link is called.
pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn is_tap(link: &LinkMessage) -> bool {
    kind(link) == Some(&InfoKind::Tun) && name(link).is_some_and(|name| name.starts_with(tap::PREFIX))
}

/// Whether the link gets its packets only where the host's stack takes them for itself, which is behind the place from where they could be
/// sent on.
fn passes_by(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let mode = InfoIpVlan::Mode(IpVlanMode::L3S);
    infos.flatten().any(|info| matches!(info, LinkInfo::Data(InfoData::IpVlan(data)) if data.contains(&mode)))
}

/// The guest's view of a link, if it is to have one.
fn shown(link: &LinkMessage) -> Option<Link> {
    let flags = link.header.flags;
    let other_kind = matches!(kind(link), Some(InfoKind::Tun | InfoKind::Bridge));
    // A part of something larger, which is the one to be shown.
    let part = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Controller(_)));
    if link.header.link_layer_type != LinkLayerType::Ether
        || !flags.contains(LinkFlags::Up)
        || flags.contains(LinkFlags::Loopback)
        || other_kind
        || part
    {
        return None;
    }
    let no_arp = flags.contains(LinkFlags::Noarp);
    let mut interface = NetworkInterface { name: name(link)?.to_string(), no_arp, ..Default::default() };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => interface.mac = mac.clone(),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            _ => {}
        }
    }
    interface.ipv6_disabled = ipv6::is_off(&interface.name);
    let chooses_groups = kind(link) != Some(&InfoKind::Veth);
    (interface.mac.len() == 6).then_some(Link { index: link.header.index, interface, chooses_groups })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The kernel lists IPv6 addresses with the newest first, and prefers that one as the source of what it sends. The guest adds them as they
/// were added here.
fn in_order_of_making(addresses: &mut Vec<NetworkAddress>) {
    let (six, mut all): (Vec<_>, Vec<_>) = addresses.drain(..).partition(|address| address.address.len() == 16);
    all.extend(six.into_iter().rev());
    *addresses = all;
}

/// The guest would refuse a route that prefers an address which it has not, as those of `lo`.
fn leave_out_sources(found: &mut Namespace) {
    let addresses = found.links.iter().flat_map(|link| &link.interface.addresses);
    let there: HashSet<&[u8]> = addresses.map(|address| address.address.as_slice()).collect();
    for route in found.routes.iter_mut().filter(|route| !there.contains(route.source.as_slice())) {
        route.source.clear();
    }
}

/// An address that somebody has set. The guest's kernel finds the others by itself: what routers announce, and the link's own, unless that
/// is another than the kernel makes of the link's address. One that another machine has is of no use.
fn address_of(message: &AddressMessage, mac: &[u8]) -> Option<NetworkAddress> {
    let header = &message.header;
    let (mut address, mut local, mut broadcast) = (None, None, Vec::new());
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(one) => address = Some(*one),
            AddressAttribute::Local(one) => local = Some(*one),
            AddressAttribute::Broadcast(one) => broadcast = octets((*one).into()),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let peer = address.filter(|address| local.is_some_and(|local| local != *address));
    let address = local.or(address)?;
    let by_kernel = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(_) if !header.flags.contains(AddressHeaderFlags::Permanent) => true,
        IpAddr::V6(address) => header.scope == AddressScope::Link && Some(address) == of_the_link(mac),
    };
    let usable = !by_kernel && !flags.contains(AddressFlags::Dadfailed);
    usable.then(|| NetworkAddress {
        address: octets(address),
        peer: peer.map_or_else(Vec::new, octets),
        prefix_length: header.prefix_len.into(),
        broadcast,
        scope: u8::from(header.scope).into(),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        ..Default::default()
    })
}

/// The address that the kernel gives an interface by itself (RFC 4291, appendix A).
fn of_the_link(mac: &[u8]) -> Option<Ipv6Addr> {
    let [a, b, c, d, e, f] = *<&[u8; 6]>::try_from(mac).ok()?;
    let [a, b, c, d, e, f] = [a ^ 2, b, c, d, e, f].map(u16::from);
    Some(Ipv6Addr::new(0xfe80, 0, 0, 0, a << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f))
}

/// The address in a route.
pub(super) fn address_in(route: &RouteAddress) -> Option<IpAddr> {
    match route {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// A route of the main table by way of one of `links`, unless it comes by itself, or holds for some packets only: the guest would take it
/// for all.
fn route_of(message: &RouteMessage, links: &[Link]) -> Option<NetworkRoute> {
    let header = &message.header;
    let by_itself = matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra)
        || header.flags.contains(RouteFlags::Cloned);
    let for_some = header.source_prefix_length != 0 || header.tos != 0;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast || by_itself || for_some {
        return None;
    }
    let mut route = NetworkRoute {
        ipv6: header.address_family == AddressFamily::Inet6,
        prefix_length: header.destination_prefix_length.into(),
        scope: u8::from(header.scope).into(),
        on_link: header.flags.contains(RouteFlags::Onlink),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = address_in(address).map_or_else(Vec::new, octets)
            }
            RouteAttribute::Gateway(address) => route.gateway = address_in(address).map_or_else(Vec::new, octets),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.gateway = octets((*address).into()),
            // What is not said here would be sent in another form than is meant.
            RouteAttribute::Via(_) | RouteAttribute::Encap(_) | RouteAttribute::MultiPath(_) => return None,
            RouteAttribute::PrefSource(address) => route.source = address_in(address).map_or_else(Vec::new, octets),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(mtu_of).unwrap_or_default();
            }
            RouteAttribute::Oif(index) => {
                route.interface = links.iter().find(|link| link.index == *index)?.interface.name.clone();
            }
            _ => {}
        }
    }
    (!route.interface.is_empty()).then_some(route)
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn neighbour_of(message: &NeighbourMessage, links: &[Link]) -> Option<NetworkNeighbour> {
    let link = links.iter().find(|link| link.index == message.header.ifindex)?;
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut neighbour = NetworkNeighbour { interface: link.interface.name.clone(), ..Default::default() };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                neighbour.address = octets((*address).into());
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                neighbour.address = octets((*address).into());
            }
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac = mac.clone(),
            _ => {}
        }
    }
    (!neighbour.address.is_empty() && neighbour.mac.len() == 6).then_some(neighbour)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn link(flags: LinkFlags, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName("sandbox0".to_string()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1400),
        ];
        message.attributes.extend(attributes);
        message
    }

    fn of_kind(kind: InfoKind) -> LinkMessage {
        link(LinkFlags::Up, vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])])
    }

    #[test]
    fn links_that_carry_frames_are_shown() {
        let veth = shown(&of_kind(InfoKind::Veth)).unwrap();
        assert_eq!((veth.index, veth.interface.name.as_str(), veth.interface.mtu), (3, "sandbox0", 1400));
        assert!(!veth.chooses_groups && shown(&of_kind(InfoKind::MacVlan)).unwrap().chooses_groups);
        assert!(shown(&link(LinkFlags::Up, vec![])).unwrap().chooses_groups);
        assert!(!is_tap(&of_kind(InfoKind::Veth)));
        assert!(is_tap(&of_kind(InfoKind::Tun)));
        for hidden in [
            of_kind(InfoKind::Tun),
            of_kind(InfoKind::Bridge),
            link(LinkFlags::empty(), vec![]),
            link(LinkFlags::Up | LinkFlags::Loopback, vec![]),
            link(LinkFlags::Up, vec![LinkAttribute::Controller(9)]),
        ] {
            assert_eq!(shown(&hidden), None, "{hidden:?}");
        }
        let ipvlan = |mode| {
            let data = LinkInfo::Data(InfoData::IpVlan(vec![InfoIpVlan::Mode(mode)]));
            let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpVlan), data]);
            link(LinkFlags::Up | LinkFlags::Noarp, vec![info])
        };
        assert!(shown(&ipvlan(IpVlanMode::L3)).unwrap().interface.no_arp && !veth.interface.no_arp);
        assert!(passes_by(&ipvlan(IpVlanMode::L3S)) && !passes_by(&ipvlan(IpVlanMode::L3)));
        let mut tunnel = of_kind(InfoKind::IpIp);
        tunnel.header.link_layer_type = LinkLayerType::Tunnel;
        assert_eq!(shown(&tunnel), None);
    }

    #[test]
    fn addresses_that_the_kernel_finds_are_left_to_the_guests() {
        let message = |address: IpAddr, scope, flags| {
            let mut message = AddressMessage::default();
            message.header.prefix_len = 24;
            message.header.scope = scope;
            message.header.flags = flags;
            message.attributes.push(AddressAttribute::Address(address));
            message
        };
        let mac = [2, 0x42, 0xa, 0x5a, 0, 2];
        let address_of = |message: &AddressMessage| super::address_of(message, &mac);
        let (four, six) = (IpAddr::from(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::from(Ipv6Addr::LOCALHOST));
        let own: IpAddr = "fe80::42:aff:fe5a:2".parse().unwrap();
        let permanent = AddressHeaderFlags::Permanent;
        let got = address_of(&message(four, AddressScope::Universe, AddressHeaderFlags::empty())).unwrap();
        assert_eq!((got.address.as_slice(), got.prefix_length), ([10, 0, 0, 2].as_slice(), 24));
        assert!(address_of(&message(six, AddressScope::Universe, permanent)).is_some());
        assert!(address_of(&message(own, AddressScope::Link, permanent)).is_none());
        // One that somebody has set, or that the kernel has made of a secret; one that another machine has as well.
        assert!(address_of(&message(six, AddressScope::Link, permanent)).is_some());
        let failed = permanent | AddressHeaderFlags::Dadfailed;
        assert!(address_of(&message(six, AddressScope::Universe, failed)).is_none());
        assert!(address_of(&message(six, AddressScope::Universe, AddressHeaderFlags::empty())).is_none());
        // The far end of a pair: what is local counts.
        let mut pair = message(four, AddressScope::Universe, permanent);
        pair.attributes.push(AddressAttribute::Local(Ipv4Addr::new(10, 0, 0, 9).into()));
        let got = address_of(&pair).unwrap();
        assert_eq!((got.address.as_slice(), got.peer.as_slice()), ([10, 0, 0, 9].as_slice(), [10, 0, 0, 2].as_slice()));
        pair.attributes.pop();
        pair.attributes.push(AddressAttribute::Local(four));
        assert!(address_of(&pair).unwrap().peer.is_empty());
    }

    #[test]
    fn routes_that_somebody_has_set_are_taken() {
        let links = [shown(&of_kind(InfoKind::Veth)).unwrap()];
        let route = |protocol, table, oif| {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.protocol = protocol;
            message.header.table = table;
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))));
            message.attributes.push(RouteAttribute::Oif(oif));
            route_of(&message, &links)
        };
        let main = RouteHeader::RT_TABLE_MAIN;
        let default = route(RouteProtocol::Boot, main, 3).unwrap();
        assert_eq!((default.interface.as_str(), default.gateway.as_slice()), ("sandbox0", [10, 0, 0, 1].as_slice()));
        assert!(default.destination.is_empty() && default.prefix_length == 0);
        assert_eq!(route(RouteProtocol::Kernel, main, 3), None);
        assert_eq!(route(RouteProtocol::Boot, 255, 3), None);
        assert_eq!(route(RouteProtocol::Boot, main, 4), None);
    }

    #[test]
    fn routes_for_some_packets_are_not_taken_for_all() {
        let links = [shown(&of_kind(InfoKind::Veth)).unwrap()];
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.protocol = RouteProtocol::Boot;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Oif(3));
        let with = |change: &dyn Fn(&mut RouteMessage)| {
            let mut message = message.clone();
            change(&mut message);
            route_of(&message, &links)
        };
        assert!(with(&|_| {}).is_some());
        assert_eq!(with(&|message| message.header.source_prefix_length = 64), None);
        assert_eq!(with(&|message| message.header.tos = 4), None);
        assert_eq!(with(&|message| message.header.flags = RouteFlags::Cloned), None);
        assert_eq!(with(&|message| message.attributes.push(RouteAttribute::Encap(Vec::new()))), None);
        let via = RouteVia::Inet6(Ipv6Addr::LOCALHOST);
        let by_another_family = with(&|message| message.attributes.push(RouteAttribute::Via(via.clone()))).unwrap();
        assert_eq!((by_another_family.gateway.len(), by_another_family.ipv6), (16, false));
    }

    #[test]
    fn the_newest_address_comes_last() {
        let address = |length, last| {
            let mut address = vec![0; length];
            address[length - 1] = last;
            NetworkAddress { address, ..Default::default() }
        };
        let mut addresses = vec![address(4, 1), address(16, 3), address(4, 2), address(16, 2), address(16, 1)];
        in_order_of_making(&mut addresses);
        assert_eq!(addresses, [address(4, 1), address(4, 2), address(16, 1), address(16, 2), address(16, 3)]);
    }

    #[test]
    fn sources_that_the_guest_has_not_are_left_out() {
        let mut link = shown(&of_kind(InfoKind::Veth)).unwrap();
        link.interface.addresses = vec![NetworkAddress { address: vec![10, 0, 0, 2], ..Default::default() }];
        let route = |last| NetworkRoute { source: vec![10, 0, 0, last], ..Default::default() };
        let mut found = Namespace { links: vec![link], routes: vec![route(2), route(3)], ..Default::default() };
        leave_out_sources(&mut found);
        assert_eq!(found.routes, [route(2), NetworkRoute::default()]);
    }
}
