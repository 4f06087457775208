//! A container's interfaces: from its network namespace into its micro-VM, and out of it when they leave the namespace.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use agent_protocol::MAX_INTERFACES;
use agent_protocol::agent::{Ipv6Off, NetworkInterface, UpdateNetworkRequest};
use protobuf::MessageField;
use vmm::devices::net::MAX_QUEUE_PAIRS;

use super::multicast::AllGroups;
use super::netlink::Netlink;
use super::redirect::Queue;
use super::scan::{Link, Namespace, scan};
use super::tap::Tap;
use super::windows::{Lent, Windows};
use super::{NetworkError, answers, names, redirect};
use crate::error::Plain;
use crate::guest::Guest;
use crate::monitor_process::MonitorProcess;

/// An interface that the guest has.
#[derive(Debug)]
struct Plugged {
    /// The numbers of the interface and of its tap in the namespace.
    index: u32,
    tap: u32,
    /// Another address is another device.
    mac: Vec<u8>,
    /// The tap's in the monitor.
    window: u32,
    /// The interface's.
    queue: Queue,
    /// What is for the host's side of the network and not for the guest is told apart, as far as that goes.
    answers: bool,
    /// Where the interface would pass on only the multicast groups of the host's stack.
    _all_groups: Option<AllGroups>,
}

/// What of a network namespace the guest has by now.
#[derive(Debug)]
pub struct Interfaces {
    netlink: Netlink,
    plugged: Vec<Plugged>,
    /// What the agent was told last.
    told: UpdateNetworkRequest,
    /// Names are asked for here, once something can answer.
    socket: PathBuf,
    names: bool,
    /// Where the micro-VM is another container's.
    lent: Option<Arc<Lent>>,
    /// Of each interface in the guest.
    queue_pairs: usize,
}

impl Interfaces {
    /// Of the network namespace of this thread; `socket` leads to the guest, which has so many CPUs. Its windows are the monitor's, or those
    /// that are `lent`.
    pub fn new(socket: PathBuf, vcpus: u8, lent: Option<Lent>) -> Result<Self, NetworkError> {
        let netlink = Netlink::new().map_err(NetworkError::scan("socket"))?;
        // How many CPUs another container's micro-VM has is not known here.
        let queue_pairs = if lent.is_some() { 1 } else { usize::from(vcpus).clamp(1, MAX_QUEUE_PAIRS) };
        Ok(Self {
            netlink,
            plugged: Vec::new(),
            // As the guest is by itself.
            told: UpdateNetworkRequest { ipv6_off: MessageField::some(Ipv6Off::default()), ..Default::default() },
            socket,
            names: false,
            lent: lent.map(Arc::new),
            queue_pairs,
        })
    }

    /// Gives the guest what the namespace has by now.
    pub fn follow(&mut self, id: &str, monitor: &MonitorProcess, guest: &Guest) -> Result<(), NetworkError> {
        let lent = self.lent.clone();
        let windows: &dyn Windows = match &lent {
            Some(lent) => lent.as_ref(),
            None => monitor,
        };
        let found = scan(&mut self.netlink)?;
        if found.links.len() > MAX_INTERFACES {
            return Err(NetworkError::TooMany(found.links.len()));
        }
        let others = found.taps.iter().any(|tap| self.plugged.iter().all(|plugged| plugged.tap != *tap));
        if others && !found.links.is_empty() {
            return Err(NetworkError::Taken);
        }
        self.let_go(&found, windows, guest)?;
        for link in &found.links {
            if !self.plugged.iter().any(|plugged| plugged.index == link.index) {
                self.plug(link, windows)?;
            }
        }
        let answered = !self.plugged.is_empty() && (self.names || names::is_answered());
        if answered {
            self.let_answers_through();
        }
        self.tell(request(found, &self.plugged), guest)?;
        if answered && !self.names {
            names::start(&self.socket, id)?;
            self.names = true;
        }
        Ok(())
    }

    /// The resolver asks others by way of the container's interfaces.
    fn let_answers_through(&mut self) {
        let Self { netlink, plugged, .. } = self;
        for one in plugged.iter_mut().filter(|one| !one.answers) {
            one.answers = true;
            let through = answers::load(one.tap)
                .and_then(|program| redirect::let_through(netlink, one.index, one.tap, program.as_fd()));
            if let Err(error) = through {
                let error = Plain(&error);
                log::warn!(
                    "the resolver at 127.0.0.11 finds no names but those of other containers: it gets no answers by interface {}: {error}; \
                     the kernel's module act_bpf is needed",
                    one.index
                );
            }
        }
    }

    /// Takes from the guest what is not in the namespace any more. Nothing else is changed before: what comes in its place may be the same
    /// but for the device.
    fn let_go(&mut self, found: &Namespace, windows: &dyn Windows, guest: &Guest) -> Result<(), NetworkError> {
        let gone = self.take_gone(found);
        if gone.is_empty() {
            return Ok(());
        }
        let rest = without(self.told.clone(), &gone);
        if let Err(error) = guest.update_network(rest.clone()) {
            // Another device in a window of which the guest's driver has not let go would never work.
            self.plugged.extend(gone);
            return Err(error.into());
        }
        self.told = rest;
        for plugged in gone {
            redirect::stop(&mut self.netlink, plugged.index, plugged.queue);
            match windows.unplug(plugged.window) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => log::warn!("window {}: {reason}", plugged.window),
                Err(error) => log::warn!("window {}: {error}", plugged.window),
            }
        }
        Ok(())
    }

    /// What is in the guest and not in the namespace any more.
    fn take_gone(&mut self, found: &Namespace) -> Vec<Plugged> {
        let here = |plugged: &Plugged| {
            found.links.iter().any(|link| link.index == plugged.index && link.interface.mac == plugged.mac)
        };
        let (stay, gone) = std::mem::take(&mut self.plugged).into_iter().partition(here);
        self.plugged = stay;
        gone
    }

    fn plug(&mut self, link: &Link, windows: &dyn Windows) -> Result<(), NetworkError> {
        let NetworkInterface { name, mac, mtu, .. } = &link.interface;
        let tap = Tap::open(&mut self.netlink, *mtu, self.queue_pairs)
            .map_err(|source| NetworkError::Tap { name: name.clone(), source })?;
        let redirected = redirect::redirect(&mut self.netlink, tap.index, link.index)
            .and_then(|_| redirect::redirect(&mut self.netlink, link.index, tap.index));
        let queue = redirected.map_err(|source| NetworkError::Redirect { name: name.clone(), source })?;
        let address = <[u8; 6]>::try_from(mac.as_slice()).unwrap_or_default();
        let plugged = match windows.plug(address, &tap.queues, &vhosts(self.queue_pairs)) {
            Ok(plugged) => plugged.map_err(|reason| NetworkError::Plug { name: name.clone(), reason }),
            Err(error) => Err(error.into()),
        };
        // The interface works without a guest again.
        let window = plugged.inspect_err(|_| redirect::stop(&mut self.netlink, link.index, queue))?;
        let all_groups = link.chooses_groups.then(|| AllGroups::of(link.index)).transpose().unwrap_or_else(|error| {
            log::warn!("network interface {name:?} passes on only the multicast groups of the host: {error}");
            None
        });
        let (index, tap, mac) = (link.index, tap.index, mac.clone());
        self.plugged.push(Plugged { index, tap, mac, window, queue, answers: false, _all_groups: all_groups });
        Ok(())
    }

    /// Tells the agent, if there is news.
    fn tell(&mut self, news: UpdateNetworkRequest, guest: &Guest) -> Result<(), NetworkError> {
        if news != self.told {
            guest.update_network(news.clone())?;
            self.told = news;
        }
        Ok(())
    }
}

impl Drop for Interfaces {
    /// The taps go with the monitor; the namespace may stay, and its interfaces are to work in it again.
    fn drop(&mut self) {
        for plugged in std::mem::take(&mut self.plugged) {
            redirect::stop(&mut self.netlink, plugged.index, plugged.queue);
        }
    }
}

/// What the guest is to have.
fn request(found: Namespace, plugged: &[Plugged]) -> UpdateNetworkRequest {
    let window = |index| plugged.iter().find(|plugged| plugged.index == index).map(|plugged| plugged.window);
    let interface = |link: Link| Some(NetworkInterface { window: window(link.index)?, ..link.interface });
    UpdateNetworkRequest {
        interfaces: found.links.into_iter().filter_map(interface).collect(),
        routes: found.routes,
        neighbours: found.neighbours,
        ipv6_off: MessageField::some(found.ipv6_off),
        ..Default::default()
    }
}

/// What it has been told of, but for these, and for what is reached by way of them.
fn without(mut told: UpdateNetworkRequest, gone: &[Plugged]) -> UpdateNetworkRequest {
    told.interfaces.retain(|interface| gone.iter().all(|gone| gone.window != interface.window));
    let stay: HashSet<&str> = told.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    told.routes.retain(|route| stay.contains(route.interface.as_str()));
    told.neighbours.retain(|neighbour| stay.contains(neighbour.interface.as_str()));
    told
}

/// The host kernel's own network device for guests, once for each queue pair. Without it the monitor carries the frames.
fn vhosts(queue_pairs: usize) -> Vec<OwnedFd> {
    let open = || File::options().read(true).write(true).open("/dev/vhost-net").ok().map(OwnedFd::from);
    (0..queue_pairs).map_while(|_| open()).collect()
}

#[cfg(test)]
mod tests {
    use agent_protocol::agent::{NetworkNeighbour, NetworkRoute};

    use super::*;

    fn plugged(index: u32, window: u32) -> Plugged {
        let mac = vec![2, 0, 0, 0, 0, 1];
        Plugged { index, tap: 100, mac, window, queue: Queue::Own, answers: false, _all_groups: None }
    }

    fn namespace(indices: &[u32]) -> Namespace {
        let name = |index: &u32| format!("eth{index}");
        let link = |index: &u32| {
            let interface = NetworkInterface { name: name(index), ..Default::default() };
            Link { index: *index, interface, chooses_groups: false }
        };
        let route = |index: &u32| NetworkRoute { interface: name(index), ..Default::default() };
        let neighbour = |index: &u32| NetworkNeighbour { interface: name(index), ..Default::default() };
        Namespace {
            links: indices.iter().map(link).collect(),
            routes: indices.iter().map(route).collect(),
            neighbours: indices.iter().map(neighbour).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_leaves_takes_with_it_what_is_reached_by_it() {
        let all = request(namespace(&[4, 5, 6]), &[plugged(4, 1), plugged(5, 2), plugged(6, 3)]);
        let rest = without(all, &[plugged(5, 2)]);
        // As if it had never been there.
        assert_eq!(rest, request(namespace(&[4, 6]), &[plugged(4, 1), plugged(6, 3)]));
        assert_eq!(without(rest, &[plugged(4, 1), plugged(6, 3)]), request(namespace(&[]), &[]));
    }
}
