//! From the network that is to the one that is wanted.
//!
//! First goes what is not wanted any more, so that nothing is in the way of what comes. Some changes take more with them than they say
//! (the kernel drops an interface's routes with its last address, IPv6 with an MTU that is too small for it or where it is switched off,
//! and neighbours when ARP is switched): what is set up by way of such an interface is added once more, which does no harm where it still is.

use std::collections::HashSet;

use super::description::{Address, Interface, Network, Place, Step};

/// What leads from one to the other, in order.
pub fn plan(now: &Network, wanted: &Network) -> Vec<Step> {
    let mut plan = Plan { state: now.clone(), shaken: HashSet::new(), steps: Vec::new() };
    plan.take_away(wanted);
    plan.rename(wanted);
    plan.switch_ipv6(wanted);
    plan.set(wanted);
    plan.add(wanted);
    plan.steps
}

struct Plan {
    /// After the steps so far.
    state: Network,
    /// Windows of the interfaces where more may have gone.
    shaken: HashSet<u32>,
    steps: Vec<Step>,
}

impl Plan {
    fn push(&mut self, step: Step) {
        self.state.record(&step);
        match &step {
            Step::DeleteAddress(..) | Step::SetMtu(..) | Step::DisableIpv6(..) | Step::DisableArp(..) => {
                self.shaken.extend(step.window());
            }
            Step::SwitchIpv6(Place::Everywhere, _) => {
                self.shaken.extend(self.state.interfaces.iter().map(|interface| interface.window));
            }
            _ => {}
        }
        self.steps.push(step);
    }

    fn take_away(&mut self, wanted: &Network) {
        let same = |a: &Interface, b: &Interface| a.window == b.window && a.mac == b.mac;
        for interface in self.state.interfaces.clone() {
            if !wanted.interfaces.iter().any(|other| same(&interface, other)) {
                self.push(Step::Unplug(interface.window));
            }
        }
        let routes: HashSet<_> = wanted.routes.iter().collect();
        for route in self.state.routes.clone() {
            if !routes.contains(&route) {
                self.push(Step::DeleteRoute(route));
            }
        }
        let neighbours: HashSet<_> = wanted.neighbours.iter().collect();
        for neighbour in self.state.neighbours.clone() {
            if !neighbours.contains(&neighbour) {
                self.push(Step::DeleteNeighbour(neighbour));
            }
        }
        for interface in self.state.interfaces.clone() {
            let stay: &[Address] = wanted.interface(interface.window).map_or(&[], |wanted| &wanted.addresses);
            for address in interface.addresses {
                if !stay.contains(&address) {
                    self.push(Step::DeleteAddress(interface.window, address));
                }
            }
        }
    }

    /// A name that another interface still has becomes free before it is given.
    fn rename(&mut self, wanted: &Network) {
        for interface in self.state.interfaces.clone() {
            let taken = |other: &Interface| other.window != interface.window && other.name == interface.name;
            if wanted.interfaces.iter().any(taken) {
                self.push(Step::Rename(interface.window, format!("sandbox{}", interface.window)));
            }
        }
        for interface in self.state.interfaces.clone() {
            if let Some(wanted) = wanted.interface(interface.window)
                && wanted.name != interface.name
            {
                self.push(Step::Rename(interface.window, wanted.name.clone()));
            }
        }
    }

    /// Before the interfaces' own settings, which one of these overwrites.
    fn switch_ipv6(&mut self, wanted: &Network) {
        let Some(wanted) = wanted.ipv6_off else { return };
        for place in Place::ALL {
            if self.state.ipv6_off.unwrap_or_default().at(place) != wanted.at(place) {
                self.push(Step::SwitchIpv6(place, wanted.at(place)));
            }
        }
    }

    fn set(&mut self, wanted: &Network) {
        for interface in self.state.interfaces.clone() {
            let Some(wanted) = wanted.interface(interface.window) else { continue };
            if wanted.mtu != interface.mtu {
                self.push(Step::SetMtu(interface.window, wanted.mtu));
            }
            if wanted.ipv6_disabled != interface.ipv6_disabled {
                self.push(Step::DisableIpv6(interface.window, wanted.ipv6_disabled));
            }
            if wanted.no_arp != interface.no_arp {
                self.push(Step::DisableArp(interface.window, wanted.no_arp));
            }
            for setting in wanted.settings.iter().filter(|setting| !interface.settings.contains(setting)) {
                self.push(Step::Set(interface.window, setting.clone()));
            }
        }
    }

    fn add(&mut self, wanted: &Network) {
        for interface in &wanted.interfaces {
            if self.state.interface(interface.window).is_none() {
                self.push(Step::Plug(Interface { addresses: Vec::new(), ..interface.clone() }));
            }
            let has: Vec<Address> =
                self.state.interface(interface.window).map_or_else(Vec::new, |there| there.addresses.clone());
            for address in &interface.addresses {
                if self.shaken.contains(&interface.window) || !has.contains(address) {
                    self.push(Step::AddAddress(interface.window, address.clone()));
                }
            }
        }
        let has: HashSet<_> = self.state.routes.iter().cloned().collect();
        for route in &wanted.routes {
            if self.shaken.contains(&route.window) || !has.contains(route) {
                self.push(Step::AddRoute(route.clone()));
            }
        }
        let has: HashSet<_> = self.state.neighbours.iter().cloned().collect();
        for neighbour in &wanted.neighbours {
            if self.shaken.contains(&neighbour.window) || !has.contains(neighbour) {
                self.push(Step::AddNeighbour(neighbour.clone()));
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
