//! What the kernel tells of the changes in a network namespace (rtnetlink(7), its multicast groups).

use std::io;
use std::time::{Duration, Instant};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;
/// linux/rtnetlink.h.
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
/// linux/neighbour.h.
const NUD_PERMANENT: u16 = 0x80;
/// Of a message as much is read as says whether it counts: struct nlmsghdr and struct ndmsg.
const HEAD: usize = 16 + 12;
/// Messages that are taken for one change; those beyond are the next.
const MOST: usize = 4096;

/// Tells of every change of links, addresses, routes and permanent neighbours in a network namespace.
#[derive(Debug)]
pub struct Changes(Socket);

impl Changes {
    /// Begins to listen.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits for a change, no longer than `limit` if there is one, and takes all that have come by then for one. What they are is for a
    /// new look to find out. Whether there was one.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec::try_from(left).map_err(io::Error::other)).transpose()?;
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Ok(false),
                Err(error) if error != Errno::INTR => return Err(error.into()),
                _ if self.take()? => return Ok(true),
                _ => {}
            }
        }
    }

    /// Takes the changes that have come. Whether there were any.
    pub fn take(&self) -> io::Result<bool> {
        let mut changed = false;
        for _ in 0..MOST {
            let mut head = [0; HEAD];
            match recv(&self.0, &mut head[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((length, _)) => changed |= counts(head.get(..length).unwrap_or_default()),
                Err(Errno::AGAIN) => break,
                // So many that some were lost: changes all the same.
                Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}

/// Whether a message is about something that the guest gets. Of neighbours these are the permanent ones; the others change all the time.
/// One that is deleted is shown as one that does not answer; but then the message has the number of the socket that has asked for it
/// (struct nlmsghdr, nlmsg_pid), and what the protocol does by itself has none.
fn counts(head: &[u8]) -> bool {
    let short = |at: usize| Some(u16::from_ne_bytes([*head.get(at)?, *head.get(at + 1)?]));
    match short(4) {
        Some(RTM_NEWNEIGH | RTM_DELNEIGH) => {
            let by_somebody = head.get(12..16).is_some_and(|number| number != [0; 4]);
            let family = head.get(16).copied().map(i32::from);
            let permanent = short(24).is_some_and(|state| state & NUD_PERMANENT != 0);
            matches!(family, Some(libc::AF_INET | libc::AF_INET6)) && (by_somebody || permanent)
        }
        // A question to daemons that resolve addresses.
        Some(RTM_GETNEIGH) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::thread;

    use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
    use netlink_packet_route::link::{LinkFlags, LinkMessage};
    use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
    use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

    use super::super::netlink::Netlink;
    use super::*;

    #[test]
    fn neighbours_that_the_protocol_finds_do_not_count() {
        let message = |kind: u16, by: u32, family: i32, state: u16| {
            let parts: [&[u8]; 6] = [
                &28u32.to_ne_bytes(),
                &kind.to_ne_bytes(),
                &[0; 6],
                &by.to_ne_bytes(),
                &[family as u8, 0, 0, 0, 1, 0, 0, 0],
                &u32::from(state).to_le_bytes(),
            ];
            counts(&parts.concat())
        };
        let (reachable, failed) = (2, 0x20);
        for family in [libc::AF_INET, libc::AF_INET6] {
            assert!(message(RTM_NEWNEIGH, 0, family, NUD_PERMANENT));
            assert!(message(RTM_DELNEIGH, 77, family, failed));
            assert!(!message(RTM_NEWNEIGH, 0, family, reachable));
            assert!(!message(RTM_DELNEIGH, 0, family, failed));
            assert!(!message(RTM_GETNEIGH, 77, family, reachable));
        }
        // A bridge's.
        assert!(!message(RTM_NEWNEIGH, 77, libc::AF_BRIDGE, NUD_PERMANENT));
        // Links, and what cannot be read.
        assert!(message(16, 0, 0, 0));
        assert!(counts(&[]) && counts(&[16, 0, 0, 0, 16, 0]) && !counts(&[16, 0, 0, 0, 28, 0]));
    }

    #[test]
    fn permanent_neighbours_come_and_go() {
        let tested = thread::spawn(|| {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let mut netlink = Netlink::new().unwrap();
            let mut up = LinkMessage::default();
            up.header.index = 1;
            up.header.flags = LinkFlags::Up;
            up.header.change_mask = LinkFlags::Up;
            netlink.change(RouteNetlinkMessage::SetLink(up), 0).unwrap();
            let changes = Changes::new().unwrap();
            let mut neighbour = NeighbourMessage::default();
            neighbour.header.family = AddressFamily::Inet6;
            neighbour.header.ifindex = 1;
            neighbour.header.state = NeighbourState::Permanent;
            let address = NeighbourAddress::Inet6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9));
            neighbour.attributes.push(NeighbourAttribute::Destination(address));
            let address = NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]);
            neighbour.attributes.push(address);
            let short = Some(Duration::from_millis(10));
            assert!(!changes.wait(short).unwrap());
            let new = RouteNetlinkMessage::NewNeighbour(neighbour.clone());
            netlink.change(new, NLM_F_CREATE | NLM_F_REPLACE).unwrap();
            assert!(changes.wait(None).unwrap());
            assert!(!changes.wait(short).unwrap());
            netlink.change(RouteNetlinkMessage::DelNeighbour(neighbour), 0).unwrap();
            assert!(changes.wait(None).unwrap());
        });
        tested.join().unwrap();
    }
}
