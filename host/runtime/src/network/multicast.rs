//! Multicast frames. A macvlan, an ipvlan and a real card pass on those of the groups that the host's stack has joined; the guest joins
//! others, of which the host knows nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sys;

/// Has an interface pass on the frames of all groups. It does so while this is there, which is a socket that receives nothing
/// (packet(7)): the kernel takes the setting back when it is closed, by whatever end, and leaves alone what others have set.
#[derive(Debug)]
pub struct AllGroups {
    _socket: OwnedFd,
}

impl AllGroups {
    /// Of the interface with this number in this thread's network namespace.
    pub fn of(interface: u32) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        sys::receive_all_groups(socket.as_fd(), interface)?;
        Ok(Self { _socket: socket })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Nla;
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::super::netlink::Netlink;
    use super::*;

    /// linux/if_link.h.
    const IFLA_ALLMULTI: u16 = 61;

    /// How many ask for all groups of the loopback interface; nothing from kernels before 6.3.
    fn asking(netlink: &mut Netlink) -> Option<u32> {
        let links = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        let Some(RouteNetlinkMessage::NewLink(link)) = links.into_iter().next() else { panic!("no link") };
        let count = link.attributes.iter().find(|attribute| attribute.kind() == IFLA_ALLMULTI)?;
        let mut value = [0; 4];
        count.emit_value(&mut value);
        Some(u32::from_ne_bytes(value))
    }

    #[test]
    fn all_groups_are_asked_for_and_no_more_afterwards() {
        let tested = std::thread::spawn(|| {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let mut netlink = Netlink::new().unwrap();
            let before = asking(&mut netlink);
            let (one, two) = (AllGroups::of(1).unwrap(), AllGroups::of(1).unwrap());
            assert_eq!(asking(&mut netlink), before.map(|before| before + 2));
            drop(one);
            assert_eq!(asking(&mut netlink), before.map(|before| before + 1));
            drop(two);
            assert_eq!(asking(&mut netlink), before);
            assert!(AllGroups::of(0x7fff_fff0).is_err());
        });
        tested.join().unwrap();
    }
}
