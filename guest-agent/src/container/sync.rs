//! What the agent and a container's future first process say to each other until it executes: packets on a socket that
//! closes by itself when execve(2) succeeds.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use ttrpc::Code;

/// From the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// What only the parent can do is done: id maps, limits.
    Go,
    /// Execute.
    Start,
}

/// From the child.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromChild {
    /// Built; waits for Start. With a terminal, its master side comes along.
    Ready {
        /// When the root file system was in place, CLOCK_BOOTTIME.
        mounted_ns: u64,
    },
    /// execve(2) comes next.
    Executing,
    /// It cannot go on and ends.
    Failed(Failure),
}

/// A child's error, on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides the code of the reply.
    pub kind: Kind,
    /// One sentence.
    pub message: String,
}

/// What sort of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The program or the working directory does not exist.
    NotFound,
    /// It may not be used.
    Denied,
    /// The request asks for something that cannot be.
    Invalid,
    /// Anything else.
    Internal,
}

impl Kind {
    /// As ttrpc has it.
    pub fn code(self) -> Code {
        match self {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::Denied => Code::PERMISSION_DENIED,
            Kind::Invalid => Code::INVALID_ARGUMENT,
            Kind::Internal => Code::INTERNAL,
        }
    }
}

/// Longer messages are cut.
const PACKET: usize = 16 * 1024;

/// The agent's end.
pub struct Channel(AsyncFd<OwnedFd>);

/// The child's end, which blocks.
pub struct ChildChannel(OwnedFd);

/// Both ends. The child's has no number below `free`: those are the child's own.
pub fn pair(free: RawFd) -> io::Result<(Channel, ChildChannel)> {
    let (agent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = rustix::io::fcntl_dupfd_cloexec(child, free)?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    Ok((Channel(crate::sys::async_fd(agent)?), ChildChannel(child)))
}

impl Channel {
    /// Sends one packet.
    pub async fn send(&self, message: ToChild) -> io::Result<()> {
        let packet = serde_json::to_vec(&message)?;
        self.0.async_io(Interest::WRITABLE, |fd| send(fd.as_fd(), &packet, None)).await
    }

    /// The next packet, with a descriptor if it carries one; None when the other end is closed.
    pub async fn receive(&self) -> io::Result<Option<(FromChild, Option<OwnedFd>)>> {
        let (packet, fd) = self.0.async_io(Interest::READABLE, |fd| receive(fd.as_fd())).await?;
        Ok(if packet.is_empty() { None } else { Some((serde_json::from_slice(&packet)?, fd)) })
    }
}

impl ChildChannel {
    /// To keep it open in the child.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends one packet.
    pub fn send(&self, message: &FromChild, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut packet = serde_json::to_vec(message)?;
        if packet.len() > PACKET
            && let FromChild::Failed(failure) = message
        {
            let message: String = failure.message.chars().take(1000).collect();
            packet = serde_json::to_vec(&FromChild::Failed(Failure { kind: failure.kind, message }))?;
        }
        send(self.0.as_fd(), &packet, fd)
    }

    /// Waits for this very packet. An agent that closed its end wants the child gone.
    pub fn expect(&self, message: ToChild) -> io::Result<()> {
        let (packet, _) = receive(self.0.as_fd())?;
        if !packet.is_empty() && serde_json::from_slice::<ToChild>(&packet)? == message {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut packet = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // A child that died with a packet unread resets the connection: the same as closing it.
            Err(rustix::io::Errno::CONNRESET) => return Ok((Vec::new(), None)),
            other => break other?,
        }
    };
    packet.truncate(received.bytes);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((packet, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_and_descriptors_cross() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (agent, child) = pair(3).unwrap();
            agent.send(ToChild::Go).await.unwrap();
            child.expect(ToChild::Go).unwrap();
            let null = std::fs::File::open("/dev/null").unwrap();
            child.send(&FromChild::Ready { mounted_ns: 5 }, Some(null.as_fd())).unwrap();
            let (message, fd) = agent.receive().await.unwrap().unwrap();
            assert_eq!(message, FromChild::Ready { mounted_ns: 5 });
            assert!(fd.is_some());
            let failure = Failure { kind: Kind::NotFound, message: "x".repeat(100_000) };
            child.send(&FromChild::Failed(failure), None).unwrap();
            match agent.receive().await.unwrap().unwrap().0 {
                FromChild::Failed(f) => assert_eq!(f.message.len(), 1000),
                other => panic!("{other:?}"),
            }
            drop(child);
            assert!(agent.receive().await.unwrap().is_none());
        });
    }
}
