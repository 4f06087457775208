//! Descriptors that a process gets beside 0, 1 and 2 (runc's `--preserve-fds`). What they are on the host stays there: the process has
//! a pipe or a socket, and the bytes pass through a stream each.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use agent_protocol::MAX_PRESERVED;
use agent_protocol::agent::{DescriptorDirection, PreservedDescriptor};
use rustix::fs::{Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use tokio::net::{UnixStream, unix::pipe};
use tokio_vsock::VsockStream;

use super::Error;
use crate::agent::Agent;
use crate::stdio::{self, Sent};
use crate::streams;

/// One descriptor: its number in the process, what it is good for, and the host's side unless it is /dev/null.
pub type Claimed = (RawFd, DescriptorDirection, Option<VsockStream>);

/// What the process inherits: the number that it is to have, and the descriptor.
pub type Placed = (RawFd, OwnedFd);

/// Refuses numbers that cannot be.
pub fn check(wanted: &[PreservedDescriptor]) -> Result<(), Error> {
    let mut seen = vec![false; MAX_PRESERVED as usize];
    for one in wanted {
        let place = one.number.checked_sub(3).and_then(|index| seen.get_mut(index as usize));
        match (place, one.direction.enum_value()) {
            (Some(place), Ok(_)) if !*place => *place = true,
            _ => {
                return Err(Error::Stdio(
                    "a preserved descriptor has an impossible or doubled number, or no direction",
                ));
            }
        }
    }
    Ok(())
}

/// Waits for the streams.
pub async fn claim(agent: &Agent, wanted: &[PreservedDescriptor]) -> Result<Vec<Claimed>, streams::Error> {
    let mut claimed = Vec::with_capacity(wanted.len());
    for one in wanted {
        let stream = match one.token {
            0 => None,
            token => Some(agent.streams.claim(token).await?),
        };
        claimed.push((one.number as RawFd, one.direction.enum_value_or_default(), stream));
    }
    Ok(claimed)
}

/// The agent's side of one.
pub enum End {
    /// The process reads.
    Input(pipe::Sender),
    /// The process writes.
    Output(pipe::Receiver),
    /// Both.
    Both(UnixStream),
    /// Nobody listens.
    Null,
}

/// Pipes and sockets, and the process's side of them, whose own numbers are none of those that the process is to have.
pub fn open(claimed: &[Claimed]) -> io::Result<(Vec<End>, Vec<Placed>)> {
    let (mut ends, mut inherited) = (Vec::new(), Vec::new());
    for (number, direction, stream) in claimed {
        let (end, fd) = match (stream, direction) {
            (None, _) => (End::Null, rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?),
            (Some(_), DescriptorDirection::INPUT) => stdio::input().map(|(end, fd)| (End::Input(end), fd.0))?,
            (Some(_), DescriptorDirection::OUTPUT) => stdio::output().map(|(end, fd)| (End::Output(end), fd.0))?,
            (Some(_), DescriptorDirection::BOTH) => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                ours.set_nonblocking(true)?;
                (End::Both(UnixStream::from_std(ours)?), theirs.into())
            }
        };
        ends.push(end);
        inherited.push((*number, fd));
    }
    let free = first_free(&inherited);
    let moved = inherited.into_iter().map(|(number, fd)| Ok((number, fcntl_dupfd_cloexec(fd, free)?)));
    Ok((ends, moved.collect::<io::Result<_>>()?))
}

/// No number from here on is one that the process is to have.
pub fn first_free(inherited: &[Placed]) -> RawFd {
    inherited.iter().map(|(number, _)| number + 1).max().unwrap_or(3)
}

/// Starts all directions.
pub fn forward(ends: Vec<End>, claimed: Vec<Claimed>, mut sent: impl FnMut() -> Sent) {
    for (end, (_, _, stream)) in ends.into_iter().zip(claimed) {
        let Some(host) = stream else { continue };
        match end {
            End::Input(end) => drop(tokio::spawn(stdio::feed(host, end))),
            End::Output(end) => drop(tokio::spawn(stdio::drain(end, host, sent()))),
            End::Both(end) => drop(tokio::spawn(stdio::socket(end, host, sent()))),
            End::Null => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn numbers_are_checked() {
        let one = |number| PreservedDescriptor { number, ..Default::default() };
        check(&[one(3), one(5), one(MAX_PRESERVED + 2)]).unwrap();
        for wrong in [vec![one(2)], vec![one(3), one(3)], vec![one(MAX_PRESERVED + 3)], vec![one(u32::MAX)]] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
        let direction = protobuf::EnumOrUnknown::from_i32(7);
        assert!(check(&[PreservedDescriptor { direction, ..one(3) }]).is_err());
    }

    #[test]
    fn none_lies_on_a_number_that_is_taken() {
        let claimed: Vec<Claimed> = (3..20).map(|number| (number, DescriptorDirection::INPUT, None)).collect();
        let (_, inherited) = open(&claimed).unwrap();
        assert!(inherited.iter().all(|(_, fd)| fd.as_raw_fd() >= 20));
        assert_eq!(first_free(&inherited), 20);
        assert_eq!(first_free(&[]), 3);
    }
}
