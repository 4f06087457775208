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
    /// None where it is left as it is.
    pub ipv6_off: Option<Ipv6Off>,
}

/// Where there is to be no IPv6, beside the interfaces' own settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Off {
    /// The setting for all: what changes it changes it everywhere.
    pub everywhere: bool,
    /// For interfaces to come.
    pub to_come: bool,
    /// For `lo`.
    pub loopback: bool,
}

/// One of these settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// See [`Ipv6Off::everywhere`].
    Everywhere,
    /// See [`Ipv6Off::to_come`].
    ToCome,
    /// See [`Ipv6Off::loopback`].
    Loopback,
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
    /// What somebody has changed on the host.
    pub settings: Vec<Setting>,
    /// What config.json sets of it: files below /proc/sys, and what is written there.
    pub sysctls: Vec<(String, String)>,
    /// In the order in which they are added.
    pub addresses: Vec<Address>,
}

/// net.ipv4.conf.INTERFACE.NAME, or that of IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Of IPv6.
    pub ipv6: bool,
    /// Its last part.
    pub name: String,
    /// All are numbers.
    pub value: i32,
}

/// An interface's own address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Itself.
    pub address: IpAddr,
    /// Of its subnet.
    pub prefix: u8,
    /// The link's other end, whose subnet it is then.
    pub peer: Option<IpAddr>,
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
    /// None for what is reached directly. An IPv4 route can have one of IPv6.
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
    /// Beside devices, or for all of them.
    SwitchIpv6(Place, bool),
    /// Of the device in this window.
    Set(u32, Setting),
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
            Step::SwitchIpv6(place, off) => self.switch_ipv6(*place, *off),
            Step::Set(window, setting) => self.change(*window, |interface| {
                interface.settings.retain(|other| (other.ipv6, &other.name) != (setting.ipv6, &setting.name));
                interface.settings.push(setting.clone());
            }),
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

    fn switch_ipv6(&mut self, place: Place, off: bool) {
        let mut now = self.ipv6_off.unwrap_or_default();
        match place {
            Place::Everywhere => {
                now = Ipv6Off { everywhere: off, to_come: off, loopback: off };
                self.interfaces.iter_mut().for_each(|interface| interface.ipv6_disabled = off);
            }
            Place::ToCome => now.to_come = off,
            Place::Loopback => now.loopback = off,
        }
        self.ipv6_off = Some(now);
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

impl Ipv6Off {
    /// The setting of one place.
    pub fn at(self, place: Place) -> bool {
        match place {
            Place::Everywhere => self.everywhere,
            Place::ToCome => self.to_come,
            Place::Loopback => self.loopback,
        }
    }
}

impl Place {
    /// All, in the order in which they are set.
    pub const ALL: [Place; 3] = [Place::Everywhere, Place::ToCome, Place::Loopback];

    /// As /proc/sys/net/ipv6/conf has it.
    pub fn name(self) -> &'static str {
        match self {
            Place::Everywhere => "all",
            Place::ToCome => "default",
            Place::Loopback => "lo",
        }
    }
}

impl Step {
    /// Where, if it is about one device.
    pub fn window(&self) -> Option<u32> {
        Some(match self {
            Step::SwitchIpv6(..) => return None,
            Step::Plug(interface) => interface.window,
            Step::AddRoute(route) | Step::DeleteRoute(route) => route.window,
            Step::AddNeighbour(neighbour) | Step::DeleteNeighbour(neighbour) => neighbour.window,
            Step::Unplug(window)
            | Step::Rename(window, _)
            | Step::SetMtu(window, _)
            | Step::DisableIpv6(window, _)
            | Step::DisableArp(window, _)
            | Step::Set(window, _)
            | Step::AddAddress(window, _)
            | Step::DeleteAddress(window, _) => *window,
        })
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
            Step::DisableIpv6(_, true) | Step::SwitchIpv6(_, true) => write!(f, "switch IPv6 off for"),
            Step::DisableIpv6(_, false) | Step::SwitchIpv6(_, false) => write!(f, "switch IPv6 on for"),
            Step::DisableArp(_, true) => write!(f, "switch ARP off for"),
            Step::DisableArp(_, false) => write!(f, "switch ARP on for"),
            Step::Set(_, setting) => write!(f, "set {setting} of"),
            Step::AddAddress(_, address) => write!(f, "add the address {address} to"),
            Step::DeleteAddress(_, address) => write!(f, "delete the address {address} of"),
            Step::AddRoute(route) => write!(f, "add the route {route} to"),
            Step::DeleteRoute(route) => write!(f, "delete the route {route} of"),
            Step::AddNeighbour(neighbour) => write!(f, "add the neighbour {} to", neighbour.address),
            Step::DeleteNeighbour(neighbour) => write!(f, "delete the neighbour {} of", neighbour.address),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", if self.ipv6 { "ipv6" } else { "ipv4" }, self.name, self.value)
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
