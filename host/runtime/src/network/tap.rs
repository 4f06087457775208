//! The tap beside a network interface: what its holder writes comes out of it in the container's network namespace, and the reverse.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::fs::{Mode, OFlags};

use super::netlink::Netlink;
use super::sys;

/// Names of taps begin so, in whatever network namespace they are. Nobody looks for them but people and [`super::scan`].
pub const PREFIX: &str = "sandbox";
/// struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6).
const HEADER_LENGTH: i32 = 12;

/// A tap, which is gone when all its descriptors are closed.
#[derive(Debug)]
pub struct Tap {
    /// Reads and writes frames; never blocks.
    pub fd: OwnedFd,
    /// Its number in the network namespace.
    pub index: u32,
}

impl Tap {
    /// Makes one in this thread's network namespace, up, for frames as large as `mtu` asks for.
    pub fn open(netlink: &mut Netlink, mtu: u32) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        let pattern = c"sandbox%d";
        debug_assert!(pattern.to_bytes().starts_with(PREFIX.as_bytes()));
        let name = sys::make_tap(fd.as_fd(), pattern)?;
        let name: String = name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
        sys::set_header_length(fd.as_fd(), HEADER_LENGTH)?;
        let index = index_of(&name)?;
        // By itself the host's kernel would look for routers by way of the tap, that is in the guest.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        netlink.change(RouteNetlinkMessage::SetLink(message), 0)?;
        Ok(Self { fd, index })
    }
}

fn index_of(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(&socket, name)?)
}
