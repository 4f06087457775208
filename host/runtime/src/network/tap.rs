//! The tap beside a network interface: what its holder writes comes out of it in the container's network namespace, and the reverse.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rustix::fs::{Mode, OFlags};

use super::netlink::Netlink;
use super::sys;

/// Names of taps begin so, in whatever network namespace they are. Nobody looks for them but people and [`super::scan`].
pub const PREFIX: &str = "sandbox";
/// What the kernel takes for a tap. Larger frames pass all the same.
const MAX_MTU: u32 = 65_535 - 14;
/// struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6).
const HEADER_LENGTH: i32 = 12;

/// A tap, which is gone when all its descriptors are closed.
#[derive(Debug)]
pub struct Tap {
    /// Each reads and writes frames; none blocks.
    pub queues: Vec<OwnedFd>,
    /// Its number in the network namespace.
    pub index: u32,
}

impl Tap {
    /// Makes one with so many queues (one at least) in this thread's network namespace, up, for frames as large as `mtu` asks for.
    pub fn open(netlink: &mut Netlink, mtu: u32, queues: usize) -> io::Result<Self> {
        let pattern = c"sandbox%d";
        debug_assert!(pattern.to_bytes().starts_with(PREFIX.as_bytes()));
        let several = queues > 1;
        let (first, name) = queue(pattern, several)?;
        sys::set_header_length(first.as_fd(), HEADER_LENGTH)?;
        let mut queues: Vec<OwnedFd> = (1..queues).map(|_| Ok(queue(&name, several)?.0)).collect::<io::Result<_>>()?;
        queues.insert(0, first);
        let name = name.to_string_lossy();
        let index = index_of(&name)?;
        // By itself the host's kernel would look for routers by way of the tap, that is in the guest.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::Mtu(mtu.min(MAX_MTU)));
        if several && let Err(error) = without_buffers(netlink, index) {
            log::debug!("{name} has its kernel's own queues: {error}");
        }
        netlink.change(RouteNetlinkMessage::SetLink(message), 0)?;
        Ok(Self { queues, index })
    }
}

/// One queue of a tap, and the tap's name.
fn queue(name: &CStr, several: bool) -> io::Result<(OwnedFd, CString)> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let name = sys::make_tap(fd.as_fd(), name, several)?;
    let name = CStr::from_bytes_until_nul(&name).map_err(io::Error::other)?.to_owned();
    Ok((fd, name))
}

/// A tap that can have several queues is made for 256 of them, and when it goes up each gets a queueing discipline of its own, which is
/// 6 MB of the host's memory. They would hold nothing: a tap takes what it is given, or loses it.
fn without_buffers(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut none = TcMessage::with_index(i32::try_from(index).map_err(io::Error::other)?);
    none.header.parent = TcHandle::ROOT;
    none.attributes.push(TcAttribute::Kind("noqueue".to_string()));
    netlink.change(RouteNetlinkMessage::NewQueueDiscipline(none), NLM_F_CREATE | NLM_F_REPLACE)
}

fn index_of(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(&socket, name)?)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::RouteNetlinkMessage;

    use super::*;

    /// Kinds of the queueing disciplines of an interface.
    fn disciplines(netlink: &mut Netlink, index: u32) -> Vec<String> {
        let all = netlink.list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).unwrap();
        let of_interface = all.into_iter().filter_map(|one| match one {
            RouteNetlinkMessage::NewQueueDiscipline(one) if one.header.index == index as i32 => Some(one.attributes),
            _ => None,
        });
        let kind = |attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        };
        of_interface.flatten().filter_map(kind).collect()
    }

    #[test]
    fn a_tap_has_as_many_queues_as_it_is_to_have() {
        let tested = std::thread::spawn(|| {
            // Without the privilege to make a namespace, or without taps, there is nothing to be tested.
            if crate::sys::unshare_network().is_err() || fs::metadata("/dev/net/tun").is_err() {
                return;
            }
            let mut netlink = Netlink::new().unwrap();
            let (one, four) = (Tap::open(&mut netlink, 1400, 1).unwrap(), Tap::open(&mut netlink, 1400, 4).unwrap());
            assert_eq!((one.queues.len(), four.queues.len()), (1, 4));
            assert_ne!(one.index, four.index);
            assert!(disciplines(&mut netlink, four.index).iter().all(|kind| kind == "noqueue"));
            let links = |netlink: &mut Netlink| {
                netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap().len()
            };
            let there = links(&mut netlink);
            drop(four);
            assert_eq!(links(&mut netlink), there - 1);
        });
        tested.join().unwrap();
    }
}
