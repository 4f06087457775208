//! rtnetlink(7): questions to the kernel about the network namespace of the thread that asks, and changes to it.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// How often a list is asked for anew that changed while it was given.
const ATTEMPTS: usize = 5;
/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
/// linux/netlink.h: the list was changed while it was given.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Length of a message's header, and what messages in one datagram are aligned to.
const HEADER: usize = 16;
const ALIGN: usize = 4;

/// A socket to the kernel's network configuration. It stays in the network namespace in which it was made.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One message of the kernel's, with its header's number and flags.
struct Answer {
    sequence: u32,
    flags: u16,
    payload: NetlinkPayload<RouteNetlinkMessage>,
}

impl Netlink {
    /// Opens a socket.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has something changed, and waits for the kernel's answer.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive()? {
                if let NetlinkPayload::Error(error) = answer.payload
                    && answer.sequence == self.sequence
                {
                    return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                }
            }
        }
    }

    /// Asks for a list.
    pub fn list(&mut self, what: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            self.send(what.clone(), NLM_F_DUMP)?;
            if let Some(list) = self.whole_list()? {
                return Ok(list);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// One list; nothing if it was changed meanwhile.
    fn whole_list(&mut self) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let (mut list, mut interrupted) = (Vec::new(), false);
        loop {
            for answer in self.receive()? {
                if answer.sequence != self.sequence {
                    continue;
                }
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(list)),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(one) => list.push(one),
                    _ => {}
                }
            }
        }
    }

    /// Asks for a list, and whether there is nothing in it. One that was changed meanwhile counts as one that has something.
    pub fn is_empty(&mut self, what: RouteNetlinkMessage) -> io::Result<bool> {
        self.send(what, NLM_F_DUMP)?;
        let mut empty = true;
        loop {
            for answer in self.receive()? {
                if answer.sequence != self.sequence {
                    continue;
                }
                empty &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(empty),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    _ => empty = false,
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&self) -> io::Result<Vec<Answer>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        Ok(parse(&datagram))
    }
}

/// The messages of one datagram. What one that cannot be read says is of a kind that nothing here asks for, or a link that the container
/// will miss.
fn parse(mut datagram: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(length) = datagram.get(..4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(one) = datagram.get(..length).filter(|_| length >= HEADER) else { break };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
            Ok(message) => answers.push(Answer {
                sequence: message.header.sequence_number,
                flags: message.header.flags,
                payload: message.payload,
            }),
            Err(error) => {
                let header = NetlinkBuffer::new(one);
                match header.message_type() {
                    RTM_NEWLINK => log::warn!("a network interface cannot be read: {error}"),
                    _ => log::debug!("netlink: {error}"),
                }
                let (sequence, flags) = (header.sequence_number(), header.flags());
                answers.push(Answer { sequence, flags, payload: NetlinkPayload::Noop });
            }
        }
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    answers
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn the_loopback_is_listed() {
        let mut netlink = Netlink::new().unwrap();
        let links = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(links.iter().any(|link| matches!(link, RouteNetlinkMessage::NewLink(link) if link.header.index == 1)));
        // The kernel's errors arrive.
        let mut nothing = LinkMessage::default();
        nothing.header.index = 0x7fff_fff0;
        assert!(netlink.change(RouteNetlinkMessage::SetLink(nothing), 0).is_err());
    }

    #[test]
    fn broken_datagrams_end_where_they_break() {
        for datagram in [&[][..], &[1, 0, 0], &[0; 16], &[255; 16], &[16, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]] {
            assert!(parse(datagram).is_empty(), "{datagram:?}");
        }
    }
}
