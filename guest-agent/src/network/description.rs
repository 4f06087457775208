//! What a container's network consists of, and the steps that change it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// A container's network: what it is to be, or what it was made to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Each in a window of its own.
    pub interfaces: Vec<Interface>,
    /// In the order in which they are added.
    pub routes: Vec<Route>,
    /// Permanent entries.
    pub neighbours: Vec<Neighbour>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// virtio-mmio window.
    pub window: u32,
    /// As the container sees it.
    pub name: String,
    /// Another address is another device.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Neither has addresses nor gets any by itself.
    pub ipv6_disabled: bool,
    /// Nobody is asked for addresses of the link.
    pub no_arp: bool,
    /// In the order in which they are added.
    pub addresses: Vec<Address>,
}

/// An interface's own address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Itself.
    pub address: IpAddr,
    /// Of its subnet.
    pub prefix: u8,
    /// IPv6 knows none.
    pub broadcast: Option<Ipv4Addr>,
    /// rtnetlink's number.
    pub scope: u8,
    /// The kernel is not to make the subnet's route.
    pub no_prefix_route: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Of its interface, whose name may change.
    pub window: u32,
    /// Its family, which a default route without a gateway does not show.
    pub ipv6: bool,
    /// None is the default route.
    pub destination: Option<IpAddr>,
    /// Of the destination.
    pub prefix: u8,
    /// None for what is reached directly.
    pub gateway: Option<IpAddr>,
    /// To prefer.
    pub source: Option<IpAddr>,
    /// 0 for none.
    pub metric: u32,
    /// rtnetlink's number.
    pub scope: u8,
    /// The gateway is on the link though no address says so.
    pub on_link: bool,
    /// 0 for none.
    pub mtu: u32,
}

/// A permanent entry for a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Of its interface.
    pub window: u32,
    /// Where it is asked for.
    pub address: IpAddr,
    /// Where it is.
    pub mac: [u8; 6],
}

/// One change to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The device in this window goes, and with it all that was set up by way of it.
    Unplug(u32),
    /// A device comes. Its addresses are steps of their own.
    Plug(Interface),
    /// Of the device in this window.
    Rename(u32, String),
    /// Of the device in this window.
    SetMtu(u32, u32),
    /// Of the device in this window.
    DisableIpv6(u32, bool),
    /// Of the device in this window.
    DisableArp(u32, bool),
    /// Of the device in this window.
    AddAddress(u32, Address),
    /// Of the device in this window.
    DeleteAddress(u32, Address),
    /// May be there already.
    AddRoute(Route),
    /// May be gone already.
    DeleteRoute(Route),
    /// In the place of what is there.
    AddNeighbour(Neighbour),
    /// May be gone already.
    DeleteNeighbour(Neighbour),
}

impl Network {
    /// The interface in a window.
    pub fn interface(&self, window: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.window == window)
    }

    /// What the network is after a step.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::Unplug(window) => {
                self.interfaces.retain(|interface| interface.window != *window);
                self.routes.retain(|route| route.window != *window);
                self.neighbours.retain(|neighbour| neighbour.window != *window);
            }
            Step::Plug(interface) => self.interfaces.push(Interface { addresses: Vec::new(), ..interface.clone() }),
            Step::Rename(window, name) => self.change(*window, |interface| interface.name.clone_from(name)),
            Step::SetMtu(window, mtu) => self.change(*window, |interface| interface.mtu = *mtu),
            Step::DisableIpv6(window, off) => self.change(*window, |interface| interface.ipv6_disabled = *off),
            Step::DisableArp(window, off) => self.change(*window, |interface| interface.no_arp = *off),
            Step::AddAddress(window, address) => {
                self.change(*window, |interface| add(&mut interface.addresses, address))
            }
            Step::DeleteAddress(window, address) => {
                self.change(*window, |interface| interface.addresses.retain(|other| other != address));
            }
            Step::AddRoute(route) => add(&mut self.routes, route),
            Step::DeleteRoute(route) => self.routes.retain(|other| other != route),
            Step::AddNeighbour(neighbour) => add(&mut self.neighbours, neighbour),
            Step::DeleteNeighbour(neighbour) => self.neighbours.retain(|other| other != neighbour),
        }
    }

    fn change(&mut self, window: u32, change: impl FnOnce(&mut Interface)) {
        if let Some(interface) = self.interfaces.iter_mut().find(|interface| interface.window == window) {
            change(interface);
        }
    }
}

fn add<T: Clone + PartialEq>(list: &mut Vec<T>, one: &T) {
    if !list.contains(one) {
        list.push(one.clone());
    }
}

impl Step {
    /// Where.
    pub fn window(&self) -> u32 {
        match self {
            Step::Plug(interface) => interface.window,
            Step::AddRoute(route) | Step::DeleteRoute(route) => route.window,
            Step::AddNeighbour(neighbour) | Step::DeleteNeighbour(neighbour) => neighbour.window,
            Step::Unplug(window)
            | Step::Rename(window, _)
            | Step::SetMtu(window, _)
            | Step::DisableIpv6(window, _)
            | Step::DisableArp(window, _)
            | Step::AddAddress(window, _)
            | Step::DeleteAddress(window, _) => *window,
        }
    }
}

/// A verb and its object; the interface follows.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Unplug(window) => write!(f, "unplug window {window},"),
            Step::Plug(interface) => write!(f, "plug in window {},", interface.window),
            Step::Rename(_, name) => write!(f, "give the name {name:?} to"),
            Step::SetMtu(_, mtu) => write!(f, "set an MTU of {mtu} for"),
            Step::DisableIpv6(_, true) => write!(f, "switch IPv6 off for"),
            Step::DisableIpv6(_, false) => write!(f, "switch IPv6 on for"),
            Step::DisableArp(_, true) => write!(f, "switch ARP off for"),
            Step::DisableArp(_, false) => write!(f, "switch ARP on for"),
            Step::AddAddress(_, address) => write!(f, "add the address {address} to"),
            Step::DeleteAddress(_, address) => write!(f, "delete the address {address} of"),
            Step::AddRoute(route) => write!(f, "add the route {route} to"),
            Step::DeleteRoute(route) => write!(f, "delete the route {route} of"),
            Step::AddNeighbour(neighbour) => write!(f, "add the neighbour {} to", neighbour.address),
            Step::DeleteNeighbour(neighbour) => write!(f, "delete the neighbour {} of", neighbour.address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(destination) => write!(f, "{destination}/{}", self.prefix)?,
            None => write!(f, "default")?,
        }
        self.gateway.iter().try_for_each(|gateway| write!(f, " via {gateway}"))
    }
}
