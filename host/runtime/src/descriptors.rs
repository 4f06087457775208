//! Descriptors that travel over Unix sockets (SCM_RIGHTS of unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use vmm::devices::net::MAX_QUEUE_PAIRS;

/// Most that travel together: a network device's queues, each with its vhost.
pub const MOST: usize = 2 * MAX_QUEUE_PAIRS;

/// Sends at most [`MOST`] descriptors with `data`, which must not be empty.
pub fn send(socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>], data: &[u8]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(socket, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == data.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives data and the descriptors that came with it; the length is 0 at the end.
pub fn receive(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(data)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok((got.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn some_travel_with_their_data() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(here.as_fd(), &[writer.as_fd(), here.as_fd()], b"data").unwrap();
        drop(writer);
        let mut data = [0; 16];
        let (length, mut descriptors) = receive(there.as_fd(), &mut data).unwrap();
        assert_eq!((&data[..length], descriptors.len()), (b"data".as_slice(), 2));
        std::fs::File::from(descriptors.remove(0)).write_all(b"x").unwrap();
        let mut got = [0];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
        send(here.as_fd(), &[here.as_fd(); MOST], b"data").unwrap();
        assert_eq!(receive(there.as_fd(), &mut data).unwrap().1.len(), MOST);
        drop((here, descriptors));
        assert_eq!(receive(there.as_fd(), &mut data).unwrap().0, 0);
    }
}
