//! The kernel's word that memory has come: uevents, as udev gets them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The kernel's own; udev's is another.
const KERNEL_GROUP: u32 = 1;
/// Messages taken at once; what they say does not matter.
const BATCH: usize = 64;

/// A socket on which they come.
pub struct Uevents(AsyncFd<OwnedFd>);

impl Uevents {
    /// Those from now on.
    pub fn open() -> io::Result<Uevents> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Uevents(sys::async_fd(socket)?))
    }

    /// Returns when something has happened to a device, sometimes without. Never where there is no socket.
    pub async fn next(uevents: &mut Option<Uevents>) {
        let Some(Uevents(socket)) = uevents else { return std::future::pending().await };
        let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
        for _ in 0..BATCH {
            // An error other than for want of messages: some were lost, as more came than there was room for.
            if rustix::net::recv(socket.get_ref(), &mut [0u8; 64], RecvFlags::empty()).is_err() {
                ready.clear_ready();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_socket_nothing_comes() {
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, Uevents::next(&mut None)).await.is_err());
    }
}
