//! A container's interfaces: from its network namespace into its micro-VM, and out of it when they leave the namespace.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use agent_protocol::MAX_INTERFACES;
use agent_protocol::agent::{NetworkInterface, UpdateNetworkRequest};
use vmm::devices::net::MAX_QUEUE_PAIRS;

use super::multicast::AllGroups;
use super::netlink::Netlink;
use super::redirect::Queue;
use super::scan::{Link, Namespace, scan};
use super::tap::Tap;
use super::windows::{Lent, Windows};
use super::{NetworkError, names, redirect};
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
            told: UpdateNetworkRequest::default(),
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
        self.tell(found, guest)?;
        if !self.names && !self.plugged.is_empty() && names::is_answered() {
            names::start(&self.socket, id)?;
            self.names = true;
        }
        Ok(())
    }

    /// Takes from the guest what is not in the namespace any more.
    fn let_go(&mut self, found: &Namespace, windows: &dyn Windows, guest: &Guest) -> Result<(), NetworkError> {
        let gone = self.take_gone(found);
        if gone.is_empty() {
            return Ok(());
        }
        let told = self.tell(found.clone(), guest);
        // The guest's driver has let go of them, or cannot be helped.
        for plugged in gone {
            redirect::stop(&mut self.netlink, plugged.index, plugged.queue);
            match windows.unplug(plugged.window) {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => log::warn!("window {}: {reason}", plugged.window),
                Err(error) => log::warn!("window {}: {error}", plugged.window),
            }
        }
        told
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
        let plugged =
            Plugged { index: link.index, tap: tap.index, mac: mac.clone(), window, queue, _all_groups: all_groups };
        self.plugged.push(plugged);
        Ok(())
    }

    /// Tells the agent, if there is news.
    fn tell(&mut self, found: Namespace, guest: &Guest) -> Result<(), NetworkError> {
        let window = |index| self.plugged.iter().find(|plugged| plugged.index == index).map(|plugged| plugged.window);
        let interface = |link: Link| Some(NetworkInterface { window: window(link.index)?, ..link.interface });
        let news = UpdateNetworkRequest {
            interfaces: found.links.into_iter().filter_map(interface).collect(),
            routes: found.routes,
            neighbours: found.neighbours,
            ..Default::default()
        };
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

/// The host kernel's own network device for guests, once for each queue pair. Without it the monitor carries the frames.
fn vhosts(queue_pairs: usize) -> Vec<OwnedFd> {
    let open = || File::options().read(true).write(true).open("/dev/vhost-net").ok().map(OwnedFd::from);
    (0..queue_pairs).map_while(|_| open()).collect()
}
