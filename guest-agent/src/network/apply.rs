//! Carries out the steps of a plan in a container's network namespace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use agent_protocol::Plain;

use super::description::{Interface, Network, Setting, Step};
use super::messages::{self, Message, Verb};
use super::netlink::Netlink;
use super::{Error, device};
use crate::detour::Detour;

/// Numbers of interfaces in the container's network namespace, by window.
pub type Indices = HashMap<u32, u32>;

/// Where steps are carried out. Opened anew for each call: its sockets would keep the namespace alive.
pub struct Place<'a> {
    /// The container's; none when it has the guest's own.
    namespace: Option<&'a OwnedFd>,
    /// In the guest's own, where devices appear.
    home: Netlink,
    /// In the container's.
    there: Netlink,
}

impl<'a> Place<'a> {
    /// Opens what is needed.
    pub fn open(namespace: Option<&'a OwnedFd>) -> Result<Place<'a>, Error> {
        let failed = |source| Error::Step { step: "ask for changes to the container's network".to_owned(), source };
        let home = Netlink::open().map_err(failed)?;
        let there = inside(namespace, Netlink::open).map_err(failed)?;
        Ok(Place { namespace, home, there })
    }

    /// Carries one out. `network` is what was reached before.
    pub fn perform(&mut self, step: &Step, network: &Network, indices: &mut Indices) -> Result<(), Error> {
        let name = match step {
            Step::Plug(interface) => &interface.name,
            Step::SwitchIpv6(place, _) => place.name(),
            _ => step.window().and_then(|window| network.interface(window)).map_or("", |interface| &interface.name),
        };
        let failed = |source| Error::Step { step: format!("{step} network interface {name:?}"), source };
        if let Step::Plug(interface) = step {
            let index = self.plug(interface).map_err(failed)?;
            indices.insert(interface.window, index);
            return Ok(());
        }
        let index = step.window().and_then(|window| indices.get(&window)).copied().unwrap_or_default();
        self.change(step, index, name).map_err(failed)
    }

    fn change(&mut self, step: &Step, index: u32, name: &str) -> io::Result<()> {
        match step {
            Step::Plug(_) => Ok(()),
            Step::Unplug(window) => gone(device::unbind(*window)),
            Step::Rename(_, name) => self.there.ask(messages::rename(index, name, None, None)),
            Step::SetMtu(_, mtu) => self.there.ask(messages::set_mtu(index, *mtu)),
            Step::DisableIpv6(_, off) | Step::SwitchIpv6(_, off) => self.disable_ipv6(name, *off),
            Step::Set(_, setting) => self.set(name, setting),
            Step::DisableArp(_, off) => self.there.ask(messages::disable_arp(index, *off)),
            Step::AddAddress(_, address) => {
                let added = self.add(messages::address(Verb::Add, index, address));
                self.unless_off(added, address.address.is_ipv6(), name)
            }
            Step::DeleteAddress(_, address) => self.delete(messages::address(Verb::Delete, index, address)),
            Step::AddRoute(route) => {
                let added = self.add(messages::route(Verb::Add, index, route));
                self.unless_off(added, route.ipv6, name)
            }
            Step::DeleteRoute(route) => self.delete(messages::route(Verb::Delete, index, route)),
            Step::AddNeighbour(neighbour) => {
                let added = self.add(messages::neighbour(Verb::Add, index, neighbour));
                self.unless_off(added, neighbour.address.is_ipv6(), name)
            }
            Step::DeleteNeighbour(neighbour) => self.delete(messages::neighbour(Verb::Delete, index, neighbour)),
        }
    }

    fn add(&mut self, message: Message) -> io::Result<()> {
        match self.there.ask(message) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    fn delete(&mut self, message: Message) -> io::Result<()> {
        gone(self.there.ask(message))
    }

    /// All or nothing: on failure the window is without a driver again.
    fn plug(&mut self, interface: &Interface) -> io::Result<u32> {
        device::bind(interface.window)?;
        self.settle(interface).inspect_err(|_| {
            if let Err(error) = device::unbind(interface.window) {
                log::warn!("cannot unbind the driver of window {}: {error}", interface.window);
            }
        })
    }

    /// Gives a device that has just appeared its place, name and settings.
    fn settle(&mut self, interface: &Interface) -> io::Result<u32> {
        let device = device::find(interface.window)?;
        let mac = (device.mac != interface.mac).then_some(interface.mac);
        let namespace = self.namespace.map(|namespace| namespace.as_fd());
        self.home.ask(messages::rename(device.index, &interface.name, mac, namespace))?;
        // Another namespace may know it by another number.
        let index = self.there.index(&interface.name)?;
        self.there.ask(messages::set_mtu(index, interface.mtu))?;
        // Whatever holds for interfaces to come.
        self.disable_ipv6(&interface.name, interface.ipv6_disabled)?;
        if interface.no_arp {
            self.there.ask(messages::disable_arp(index, true))?;
        }
        // Before the interface asks for routers, and hears of them.
        for setting in &interface.settings {
            self.set(&interface.name, setting)?;
        }
        for (file, value) in &interface.sysctls {
            let written = inside(self.namespace, || fs::write(Path::new("/proc/sys").join(file), value));
            written
                .map_err(|error| io::Error::new(error.kind(), format!("linux.sysctl: {file}: {}", Plain(&error))))?;
        }
        self.there.ask(messages::up(index))?;
        Ok(index)
    }

    /// Programs of the container may have switched IPv6 off.
    fn unless_off(&self, result: io::Result<()>, ipv6: bool, name: &str) -> io::Result<()> {
        let off = || {
            let shown = inside(self.namespace, || fs::read_to_string(disable_ipv6(name)));
            shown.is_ok_and(|shown| shown.trim() != "0")
        };
        if ipv6 && result.is_err() && off() { Ok(()) } else { result }
    }

    fn set(&self, name: &str, Setting { ipv6, name: setting, value }: &Setting) -> io::Result<()> {
        let path = format!("/proc/sys/net/{}/conf/{name}/{setting}", if *ipv6 { "ipv6" } else { "ipv4" });
        match inside(self.namespace, || fs::write(path, value.to_string())) {
            // Another kernel may not know it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn disable_ipv6(&self, name: &str, off: bool) -> io::Result<()> {
        match inside(self.namespace, || fs::write(disable_ipv6(name), if off { "1" } else { "0" })) {
            // With an MTU that is too small for it, an interface has no IPv6 to be switched off.
            Err(error) if off && error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

fn disable_ipv6(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

/// What is not there any more need not be deleted: programs of the container may have been faster.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Does it in a network namespace, which the agent leaves again at once.
pub fn inside<T>(namespace: Option<&OwnedFd>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _detour = namespace.map(|namespace| Detour::join(namespace, libc::CLONE_NEWNET, "net")).transpose()?;
    work()
}
