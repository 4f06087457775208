//! A socket on which the kernel is asked for changes to a network.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{ErrorBuffer, NetlinkBuffer};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::messages::Message;

/// The kernel answers before it returns from the request; this is for one that does not.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An answer repeats the request, and no request is half as long.
const ANSWER: usize = 4096;

/// Answers to anything else that are passed over.
const MOST_OTHERS: usize = 16;

const NLMSG_ERROR: u16 = 2;

/// Belongs to the network namespace in which it was opened.
pub struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl Netlink {
    /// Opens one in the namespace where the agent is now.
    pub fn open() -> io::Result<Netlink> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        // A connected one takes nothing but from its peer, the kernel: a program in the container could answer in its place.
        rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Netlink { socket, number: 0 })
    }

    /// Sends a request; the kernel's error is the result.
    pub fn ask(&mut self, message: Message) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        rustix::net::send(&self.socket, &message.numbered(self.number), SendFlags::empty())?;
        let mut buffer = [0; ANSWER];
        for _ in 0..MOST_OTHERS {
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            if let Some(answer) = answer(&buffer[..length], self.number) {
                return answer;
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The number of an interface.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(rustix::net::netdevice::name_to_index(&self.socket, name)?)
    }
}

/// What a datagram says of the request with this number.
fn answer(bytes: &[u8], number: u32) -> Option<io::Result<()>> {
    let message = NetlinkBuffer::new_checked(bytes).ok()?;
    if message.message_type() != NLMSG_ERROR || message.sequence_number() != number {
        return None;
    }
    let error = ErrorBuffer::new_checked(message.payload()).ok()?;
    Some(match error.code() {
        None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.get().wrapping_neg())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_known_by_their_number() {
        let answer_to = |number: u32, code: i32| {
            let head = [36u32.to_ne_bytes(), [2, 0, 0, 0], number.to_ne_bytes(), [0; 4]].concat();
            [head, code.to_ne_bytes().to_vec(), vec![0; 16]].concat()
        };
        assert!(matches!(answer(&answer_to(7, 0), 7), Some(Ok(()))));
        let refused = answer(&answer_to(7, -libc::EEXIST), 7);
        assert!(matches!(refused, Some(Err(error)) if error.raw_os_error() == Some(libc::EEXIST)));
        assert!(answer(&answer_to(6, 0), 7).is_none());
        assert!(answer(&answer_to(7, 0)[..18], 7).is_none());
        assert!(answer(&[], 7).is_none());
        let mut other = answer_to(7, 0);
        other[4] = 3;
        assert!(answer(&other, 7).is_none());
    }
}
