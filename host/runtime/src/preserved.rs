//! Descriptors of the caller's that a process gets beside 0, 1 and 2 (`--preserve-fds`). An open file of the host is nothing that a guest
//! can hold: the process has a pipe or a socket in its place, and the bytes are carried like those of stdin and stdout.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use agent_protocol::MAX_PRESERVED;
use agent_protocol::agent::DescriptorDirection;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::SocketType;
use serde::{Deserialize, Serialize};

use crate::sys;

/// A descriptor cannot be passed.
#[derive(Debug, thiserror::Error)]
pub enum PreservedError {
    /// One that is not only bytes.
    #[error(
        "--preserve-fds: descriptor {number} is {what}; into a guest pass /dev/null, connected stream sockets, and what was opened \
         for reading only or for writing only"
    )]
    Kind {
        /// Its number.
        number: RawFd,
        /// What it is.
        what: &'static str,
    },
    /// More than the guest takes.
    #[error("--preserve-fds {0}: {MAX_PRESERVED} are possible")]
    TooMany(u32),
}

/// What a descriptor is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The process reads.
    Input,
    /// The process writes.
    Output,
    /// Both.
    Both,
    /// /dev/null: the guest has its own.
    Null,
}

impl Direction {
    /// As the agent calls it.
    pub fn of_agent(self) -> DescriptorDirection {
        match self {
            Self::Input | Self::Null => DescriptorDirection::INPUT,
            Self::Output => DescriptorDirection::OUTPUT,
            Self::Both => DescriptorDirection::BOTH,
        }
    }
}

/// A descriptor's number in the process, and its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The number.
    pub number: RawFd,
    /// The direction.
    pub direction: Direction,
}

/// A descriptor that is to be passed on.
#[derive(Debug)]
pub struct Preserved {
    /// How the process gets it.
    pub place: Place,
    /// The descriptor, here.
    pub fd: OwnedFd,
}

/// Takes over the descriptors from 3 up, those of the first `count` that are open: before this process opens any of its own.
pub fn take(count: u32) -> Result<Vec<Preserved>, PreservedError> {
    if count > MAX_PRESERVED {
        return Err(PreservedError::TooMany(count));
    }
    let open = (3..).take(count as usize).filter_map(|number| Some((number, sys::inherited(number)?)));
    open.map(|(number, fd)| {
        let direction = direction(&fd).map_err(|what| PreservedError::Kind { number, what })?;
        Ok(Preserved { place: Place { number, direction }, fd })
    })
    .collect()
}

/// Descriptors that a proxy was started with, and what they are for.
pub fn placed(places: &[Place], fds: Vec<OwnedFd>) -> Vec<Preserved> {
    places.iter().zip(fds).map(|(place, fd)| Preserved { place: *place, fd }).collect()
}

/// What can be carried of it, or what it is instead.
fn direction(fd: &impl AsFd) -> Result<Direction, &'static str> {
    let stat = fstat(fd).map_err(|_| "of an unknown kind")?;
    let flags = fcntl_getfl(fd).map_err(|_| "of an unknown kind")?;
    let one_way = match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => return Err("one that was opened with O_PATH"),
        OFlags::WRONLY => Some(Direction::Output),
        OFlags::RDWR => None,
        _ => Some(Direction::Input),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if stat.st_rdev == rustix::fs::makedev(1, 3) => Ok(Direction::Null),
        FileType::Socket => socket(fd),
        FileType::Directory => Err("a directory"),
        FileType::RegularFile => one_way.ok_or("a file that was opened for reading and writing"),
        FileType::CharacterDevice | FileType::BlockDevice => {
            one_way.ok_or("a device that was opened for reading and writing")
        }
        FileType::Fifo => one_way.ok_or("a named pipe that was opened for reading and writing"),
        // epoll, eventfd, timerfd, pidfd and the like.
        _ => Err("no file, pipe or socket"),
    }
}

fn socket(fd: &impl AsFd) -> Result<Direction, &'static str> {
    use rustix::net::sockopt::{socket_acceptconn, socket_type};
    match (socket_type(fd), socket_acceptconn(fd)) {
        (Ok(SocketType::STREAM), Ok(false)) => Ok(Direction::Both),
        (Ok(SocketType::STREAM), _) => Err("a listening socket"),
        _ => Err("a socket that is no stream"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::pipe;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn directions() {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(direction(&reader), Ok(Direction::Input));
        assert_eq!(direction(&writer), Ok(Direction::Output));
        assert_eq!(direction(&UnixStream::pair().unwrap().0), Ok(Direction::Both));
        assert_eq!(direction(&File::open("/dev/null").unwrap()), Ok(Direction::Null));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(direction(&File::create(&path).unwrap()), Ok(Direction::Output));
        assert_eq!(direction(&File::open(&path).unwrap()), Ok(Direction::Input));
        assert!(direction(&OpenOptions::new().read(true).write(true).open(&path).unwrap()).is_err());
        assert_eq!(direction(&File::open(directory.path()).unwrap()), Err("a directory"));
        assert_eq!(direction(&UnixDatagram::pair().unwrap().0), Err("a socket that is no stream"));
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert_eq!(direction(&listener), Err("a listening socket"));
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        assert_eq!(direction(&event), Err("no file, pipe or socket"));
    }

    #[test]
    fn too_many() {
        assert!(take(MAX_PRESERVED + 1).unwrap_err().to_string().contains("256 are possible"));
    }
}
