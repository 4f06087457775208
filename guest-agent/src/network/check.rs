//! UpdateNetwork's request, checked.

use std::net::IpAddr;

use agent_protocol::agent::{NetworkAddress, NetworkInterface, NetworkRoute, NetworkSetting, UpdateNetworkRequest};
use agent_protocol::{MAX_ADDRESSES, MAX_INTERFACES, MAX_NEIGHBOURS, MAX_ROUTES, MAX_SETTINGS};

use super::Error;
use super::description::{Address, Interface, Ipv6Off, Neighbour, Network, Route, Setting};

/// No VM has more windows.
const WINDOWS: u32 = 64;

/// The network that the request describes.
pub fn check(request: &UpdateNetworkRequest) -> Result<Network, Error> {
    let interfaces = each("interfaces", &request.interfaces, MAX_INTERFACES, interface)?;
    for (index, one) in interfaces.iter().enumerate() {
        let twice = |same: fn(&Interface, &Interface) -> bool| interfaces[..index].iter().any(|other| same(one, other));
        if twice(|a, b| a.window == b.window) {
            return Err(Error::invalid("window", "is given twice").at("interfaces", index));
        }
        if twice(|a, b| a.name == b.name) {
            return Err(Error::invalid("name", "is given twice").at("interfaces", index));
        }
    }
    let window = |name: &str| {
        let found = interfaces.iter().find(|interface| interface.name == name);
        found.map(|interface| interface.window).ok_or(Error::invalid("interface", "is none of the interfaces"))
    };
    let routes = each("routes", &request.routes, MAX_ROUTES, |given| route(given, window(&given.interface)?))?;
    let neighbours = each("neighbours", &request.neighbours, MAX_NEIGHBOURS, |given| {
        let (address, mac) = (ip("address", &given.address)?, mac(&given.mac)?);
        Ok(Neighbour { window: window(&given.interface)?, address, mac })
    })?;
    let ipv6_off = request.ipv6_off.as_ref().map(|off| Ipv6Off {
        everywhere: off.everywhere,
        to_come: off.to_come,
        loopback: off.loopback,
    });
    Ok(Network { interfaces, routes, neighbours, ipv6_off })
}

fn each<T, U>(list: &str, given: &[T], most: usize, check: impl Fn(&T) -> Result<U, Error>) -> Result<Vec<U>, Error> {
    if given.len() > most {
        return Err(Error::invalid(list, "has more entries than are allowed"));
    }
    given.iter().enumerate().map(|(index, one)| check(one).map_err(|error| error.at(list, index))).collect()
}

fn interface(given: &NetworkInterface) -> Result<Interface, Error> {
    if given.window >= WINDOWS {
        return Err(Error::invalid("window", "does not exist"));
    }
    if !(68..=65535).contains(&given.mtu) {
        return Err(Error::invalid("mtu", "must be 68 to 65535"));
    }
    name(&given.name)?;
    Ok(Interface {
        window: given.window,
        name: given.name.clone(),
        mac: mac(&given.mac)?,
        mtu: given.mtu,
        ipv6_disabled: given.ipv6_disabled,
        no_arp: given.no_arp,
        settings: each("settings", &given.settings, MAX_SETTINGS, setting)?,
        sysctls: Vec::new(),
        addresses: each("addresses", &given.addresses, MAX_ADDRESSES, address)?,
    })
}

/// What the kernel takes; and it is part of a path. `%` would have it make up a name, and two names mean something else in
/// /proc/sys/net.
fn name(name: &str) -> Result<(), Error> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    let reserved = matches!(name, "." | ".." | "all" | "default");
    if !(1..=15).contains(&name.len()) || reserved || name.contains(forbidden) {
        return Err(Error::invalid("name", "is not a name for a network interface"));
    }
    Ok(())
}

/// Its name is part of a path too.
fn setting(given: &NetworkSetting) -> Result<Setting, Error> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !(1..=64).contains(&given.name.len()) || !given.name.chars().all(allowed) {
        return Err(Error::invalid("name", "is not a name for a setting"));
    }
    Ok(Setting { ipv6: given.ipv6, name: given.name.clone(), value: given.value })
}

fn address(given: &NetworkAddress) -> Result<Address, Error> {
    let address = ip("address", &given.address)?;
    let broadcast = optional("broadcast", &given.broadcast, address.is_ipv6())?;
    Ok(Address {
        address,
        prefix: prefix(given.prefix_length, address.is_ipv6())?,
        peer: optional("peer", &given.peer, address.is_ipv6())?,
        broadcast: broadcast.and_then(|broadcast| match broadcast {
            IpAddr::V4(broadcast) => Some(broadcast),
            IpAddr::V6(_) => None,
        }),
        scope: scope(given.scope)?,
        no_prefix_route: given.no_prefix_route,
    })
}

fn route(given: &NetworkRoute, window: u32) -> Result<Route, Error> {
    let ipv6 = given.ipv6;
    let destination = optional("destination", &given.destination, ipv6)?;
    let prefix = prefix(given.prefix_length, ipv6)?;
    if destination.is_none() && prefix != 0 {
        return Err(Error::invalid("prefix_length", "is not 0 for the default route"));
    }
    if given.mtu > 65535 {
        return Err(Error::invalid("mtu", "must be 0 to 65535"));
    }
    Ok(Route {
        window,
        ipv6,
        destination,
        prefix,
        gateway: gateway(&given.gateway, ipv6)?,
        source: optional("source", &given.source, ipv6)?,
        metric: given.metric,
        scope: scope(given.scope)?,
        on_link: given.on_link,
        mtu: given.mtu,
    })
}

fn mac(bytes: &[u8]) -> Result<[u8; 6], Error> {
    bytes.try_into().map_err(|_| Error::invalid("mac", "must have 6 bytes"))
}

fn ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Error> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| Error::invalid(field, "must have 4 bytes or 16"))
}

fn optional(field: &str, bytes: &[u8], ipv6: bool) -> Result<Option<IpAddr>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match ip(field, bytes)? {
        address if address.is_ipv6() == ipv6 => Ok(Some(address)),
        _ => Err(Error::invalid(field, "is of the other family")),
    }
}

/// An IPv4 route can lead to a neighbour that has an address of IPv6 only.
fn gateway(bytes: &[u8], ipv6: bool) -> Result<Option<IpAddr>, Error> {
    optional("gateway", bytes, ipv6 || bytes.len() == 16)
}

fn prefix(length: u32, ipv6: bool) -> Result<u8, Error> {
    let most = if ipv6 { 128 } else { 32 };
    u8::try_from(length)
        .ok()
        .filter(|length| *length <= most)
        .ok_or_else(|| Error::invalid("prefix_length", "is longer than the address"))
}

fn scope(scope: u32) -> Result<u8, Error> {
    u8::try_from(scope).map_err(|_| Error::invalid("scope", "must be 0 to 255"))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
