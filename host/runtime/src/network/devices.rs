//! Interfaces that move from the network namespace of the runtime's caller into the container's (`linux.netDevices`, "Network Devices" of
//! config-linux.md), with the addresses that somebody has set on them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::NetworkError;
use super::netlink::Netlink;
use super::scan::name;

/// One interface, and what it is called in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDevice {
    /// Before.
    pub name: String,
    /// Afterwards.
    pub new_name: String,
}

/// What a configuration asks for.
pub fn of(spec: &Spec) -> Vec<NetworkDevice> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let mut all: Vec<NetworkDevice> = devices
        .into_iter()
        .flatten()
        .map(|(name, device)| {
            let new_name = device.name().clone().filter(|new| !new.is_empty()).unwrap_or_else(|| name.clone());
            NetworkDevice { name: name.clone(), new_name }
        })
        .collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// Interfaces that are on their way.
#[derive(Debug, Default)]
pub struct Moving {
    outside: Option<Netlink>,
    devices: Vec<NetworkDevice>,
}

impl Moving {
    /// From this thread's network namespace.
    pub fn from_here(devices: Vec<NetworkDevice>) -> Result<Self, NetworkError> {
        let outside = match devices.is_empty() {
            true => None,
            false => Some(Netlink::new().map_err(NetworkError::scan("socket"))?),
        };
        Ok(Self { outside, devices })
    }

    /// To the network namespace that this thread is in by now.
    pub fn arrive(mut self) -> Result<(), NetworkError> {
        let Some(outside) = &mut self.outside else { return Ok(()) };
        let mut inside = Netlink::new().map_err(NetworkError::scan("socket"))?;
        for device in &self.devices {
            bring(outside, &mut inside, device)
                .map_err(|source| NetworkError::Device { name: device.name.clone(), source })?;
        }
        Ok(())
    }
}

fn bring(outside: &mut Netlink, inside: &mut Netlink, device: &NetworkDevice) -> io::Result<()> {
    let index = index(outside, &device.name)?;
    let addresses = addresses(outside, index)?;
    let namespace = File::open(Path::new("/proc/thread-self/ns/net"))?;
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    message.attributes.push(LinkAttribute::IfName(device.new_name.clone()));
    outside.change(RouteNetlinkMessage::SetLink(message), 0)?;
    // It may have got another number.
    let index = self::index(inside, &device.new_name)?;
    for mut address in addresses {
        address.header.index = index;
        inside.change(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)?;
    }
    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    inside.change(RouteNetlinkMessage::SetLink(up), 0)
}

fn index(netlink: &mut Netlink, wanted: &str) -> io::Result<u32> {
    let links = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let index = links.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) if name(link) == Some(wanted) => Some(link.header.index),
        _ => None,
    });
    index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Those that stay: of global scope, and set for good.
fn addresses(netlink: &mut Netlink, index: u32) -> io::Result<Vec<AddressMessage>> {
    let all = netlink.list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let kept = |message| match message {
        RouteNetlinkMessage::NewAddress(mut address)
            if address.header.index == index
                && address.header.scope == AddressScope::Universe
                && address.header.flags.contains(AddressHeaderFlags::Permanent) =>
        {
            // Of the name, which changes, and of the time that it has been there.
            address
                .attributes
                .retain(|one| !matches!(one, AddressAttribute::Label(_) | AddressAttribute::CacheInfo(_)));
            Some(address)
        }
        _ => None,
    };
    Ok(all.into_iter().filter_map(kept).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_kept_unless_there_is_another() {
        let spec = json!({"ociVersion": "1.2.0", "linux": {"netDevices": {"eth1": {}, "eth0": {"name": "c0"}, "eth2": {"name": ""}}}});
        let devices = of(&serde_json::from_value(spec).unwrap());
        let names: Vec<_> = devices.iter().map(|one| (one.name.as_str(), one.new_name.as_str())).collect();
        assert_eq!(names, [("eth0", "c0"), ("eth1", "eth1"), ("eth2", "eth2")]);
    }
}
