//! The routes of subnets. The kernel makes one with each address, and somebody may have deleted it (CNI's `ptp` does: the subnet is to be
//! reached by way of the gateway). Then the guest's kernel is not to make it either.

use std::net::IpAddr;

use agent_protocol::agent::NetworkAddress;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};

use super::scan::{Link, address_in};

/// One that the kernel has made: the interface, and the subnet with its length.
type Subnet = (u32, IpAddr, u32);

/// The kernel's routes of a namespace.
#[derive(Debug, Default)]
pub struct Subnets(Vec<Subnet>);

impl Subnets {
    /// Remembers a route, if it is such a one.
    pub fn take(&mut self, route: &RouteMessage) {
        self.0.extend(subnet_of(route));
    }

    /// Marks the link's addresses whose subnets have none.
    pub fn leave_out(&self, link: &mut Link) {
        for address in &mut link.interface.addresses {
            if subnet(address).is_some_and(|(subnet, length)| !self.0.contains(&(link.index, subnet, length))) {
                address.no_prefix_route = true;
            }
        }
    }
}

fn subnet_of(route: &RouteMessage) -> Option<Subnet> {
    let header = &route.header;
    let by_kernel = header.protocol == RouteProtocol::Kernel && header.kind == RouteType::Unicast;
    if !by_kernel || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let index = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => address_in(address),
        _ => None,
    })?;
    Some((index, destination, header.destination_prefix_length.into()))
}

/// The subnet for which the kernel makes a route with an address: IPv4 knows none of a single address, but that of the other end, nor of
/// 0.0.0.0.
fn subnet(address: &NetworkAddress) -> Option<(IpAddr, u32)> {
    let length = address.prefix_length;
    let pair = !address.peer.is_empty();
    let of = if pair { &address.peer } else { &address.address };
    let ipv4 = <[u8; 4]>::try_from(of.as_slice()).map(u32::from_be_bytes);
    if let Ok(bits) = ipv4 {
        let mask = u32::MAX.checked_shl(32u32.checked_sub(length)?).unwrap_or_default();
        return ((length < 32 || pair) && bits & mask != 0).then(|| (IpAddr::V4((bits & mask).into()), length));
    }
    let bits = u128::from_be_bytes(<[u8; 16]>::try_from(of.as_slice()).ok()?);
    let mask = u128::MAX.checked_shl(128u32.checked_sub(length)?).unwrap_or_default();
    Some((IpAddr::V6((bits & mask).into()), length))
}

#[cfg(test)]
mod tests {
    use agent_protocol::agent::NetworkInterface;
    use netlink_packet_route::route::RouteAddress;

    use super::*;

    fn route(interface: u32, subnet: &str, length: u8) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.protocol = RouteProtocol::Kernel;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.kind = RouteType::Unicast;
        route.header.destination_prefix_length = length;
        let destination = match subnet.parse().unwrap() {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        route.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(interface)];
        route
    }

    /// Which of the addresses are to come without a route.
    fn left_out(routes: &[RouteMessage], addresses: &[(&str, u32)]) -> Vec<bool> {
        let mut subnets = Subnets::default();
        routes.iter().for_each(|route| subnets.take(route));
        let addresses = addresses.iter().map(|(address, prefix_length)| {
            let address = match address.parse().unwrap() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            NetworkAddress { address, prefix_length: *prefix_length, ..Default::default() }
        });
        let interface = NetworkInterface { addresses: addresses.collect(), ..Default::default() };
        let mut link = Link { index: 3, interface, chooses_groups: false };
        subnets.leave_out(&mut link);
        link.interface.addresses.iter().map(|address| address.no_prefix_route).collect()
    }

    #[test]
    fn a_subnets_route_that_somebody_has_deleted() {
        let addresses = [("10.90.0.2", 24), ("10.90.0.3", 24), ("10.91.7.2", 20), ("fd00:90::2", 64)];
        let all = [route(3, "10.90.0.0", 24), route(3, "10.91.0.0", 20), route(3, "fd00:90::", 64)];
        assert_eq!(left_out(&all, &addresses), [false; 4]);
        assert_eq!(left_out(&all[1..2], &addresses), [true, true, false, true]);
        // Of another interface, another length, another's making, another table.
        let mut others = [route(4, "10.90.0.0", 24), route(3, "10.90.0.0", 25), all[0].clone(), all[0].clone()];
        others[2].header.protocol = RouteProtocol::Boot;
        others[3].header.table = 255;
        assert_eq!(left_out(&others, &addresses[..1]), [true]);
    }

    #[test]
    fn addresses_that_never_have_one() {
        assert_eq!(left_out(&[], &[("10.90.0.2", 32), ("10.90.0.2", 0), ("10.90.0.2", 31)]), [false, false, true]);
        assert_eq!(left_out(&[], &[("fd00::2", 128), ("10.90.0.2", 33)]), [true, false]);
        assert_eq!(left_out(&[route(3, "fd00::2", 128)], &[("fd00::2", 128)]), [false]);
        let (address, peer) = (vec![10, 90, 0, 2], vec![10, 91, 0, 1]);
        let pair = NetworkAddress { address, peer, prefix_length: 32, ..Default::default() };
        assert_eq!(subnet(&pair), Some(("10.91.0.1".parse().unwrap(), 32)));
    }
}
