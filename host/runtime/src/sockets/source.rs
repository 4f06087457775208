//! The socket on the host: found when the container is made, and connected to by its path later.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_protocol::MAX_SOCKETS;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};

use crate::error::Plain;

/// How long a connection may wait to be accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A socket that a container cannot have.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Not a stream.
    #[error("is a Unix socket for {0}: only stream sockets can be carried into a guest")]
    Kind(&'static str),
    /// It cannot be found out.
    #[error("is a Unix socket of which the kind cannot be found out: {}", Plain(.0))]
    Unknown(io::Error),
    /// More than the agent makes.
    #[error("is one Unix socket too many: {MAX_SOCKETS} are possible")]
    TooMany,
}

/// A Unix socket of the host's that a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSocket {
    /// Without links in it.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl HostSocket {
    /// The socket at a path without links. Nobody who listens there gets to know.
    pub fn new(path: &Path, metadata: &std::fs::Metadata) -> Result<Self, SourceError> {
        is_stream(path)?;
        let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
        Ok(Self { path: path.to_path_buf(), mode, uid, gid })
    }

    /// Connects. By path, so that a service that was started anew, with a new socket, is found again: a bind mount would keep the old
    /// one. Links are not followed, which a container could have put there if it can write to the directory.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
        let node = open(&self.path)?;
        connect(&socket, &address(&node)?)?;
        Ok(socket.into())
    }
}

/// The node, and only if it is a socket.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let node = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    match FileType::from_raw_mode(fstat(&node)?.st_mode) {
        FileType::Socket => Ok(node),
        _ => Err(Errno::NOTSOCK.into()),
    }
}

/// Of what is open: it stays the same, and is short, which paths need not be.
fn address(node: &OwnedFd) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}", node.as_raw_fd()))?)
}

/// Asks with another kind of socket: then the kernel says that the kinds differ, and there is no connection that somebody would have
/// to accept, or would be started for.
fn is_stream(path: &Path) -> Result<(), SourceError> {
    let ask = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        Ok::<_, io::Error>(connect(&socket, &address(&open(path)?)?))
    };
    match ask(SocketType::DGRAM).map_err(SourceError::Unknown)? {
        Ok(()) => return Err(SourceError::Kind("datagrams")),
        // Nobody listens now, but may later.
        Err(Errno::CONNREFUSED) => return Ok(()),
        Err(Errno::PROTOTYPE) => {}
        Err(error) => return Err(SourceError::Unknown(error.into())),
    }
    match ask(SocketType::SEQPACKET).map_err(SourceError::Unknown)? {
        Err(Errno::PROTOTYPE) => Ok(()),
        _ => Err(SourceError::Kind("packets in sequence")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use rustix::net::{bind, listen};
    use tempfile::TempDir;

    use super::*;

    fn found(path: &Path) -> Result<HostSocket, SourceError> {
        HostSocket::new(path, &fs::metadata(path).unwrap())
    }

    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        // Longer than an address can be.
        let long = directory.path().canonicalize().unwrap().join("d".repeat(120));
        fs::create_dir(&long).unwrap();
        (directory, long)
    }

    /// An address for [`bind`] of a name in a directory.
    fn short(directory: &Path, name: &str) -> (fs::File, PathBuf) {
        let file = fs::File::open(directory).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", file.as_raw_fd()));
        (file, path)
    }

    #[test]
    fn kinds() {
        let (_directory, place) = place();
        let (_open, stream) = short(&place, "stream");
        let listener = UnixListener::bind(&stream).unwrap();
        listener.set_nonblocking(true).unwrap();
        fs::set_permissions(place.join("stream"), fs::Permissions::from_mode(0o660)).unwrap();
        let socket = found(&place.join("stream")).unwrap();
        assert_eq!((socket.mode, socket.uid), (0o660, rustix::process::getuid().as_raw()));
        assert!(listener.accept().is_err(), "nobody has connected");
        drop(listener);
        found(&place.join("stream")).unwrap();

        let (_open, datagrams) = short(&place, "datagrams");
        let _bound = UnixDatagram::bind(&datagrams).unwrap();
        let text = found(&place.join("datagrams")).unwrap_err().to_string();
        assert!(text.starts_with("is a Unix socket for datagrams"), "{text}");
        for listens in [false, true] {
            let name = format!("packets{listens}");
            let (_open, packets) = short(&place, &name);
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            bind(&socket, &SocketAddrUnix::new(&packets).unwrap()).unwrap();
            if listens {
                listen(&socket, 1).unwrap();
            }
            assert!(matches!(found(&place.join(name)), Err(SourceError::Kind(_))));
        }
    }

    #[test]
    fn the_path_is_what_counts() {
        let (_directory, place) = place();
        let (_open, address) = short(&place, "socket");
        let first = UnixListener::bind(&address).unwrap();
        let path = place.join("socket");
        let socket = found(&path).unwrap();
        drop(first);
        assert_eq!(socket.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        fs::remove_file(&path).unwrap();
        assert_eq!(socket.connect().unwrap_err().kind(), io::ErrorKind::NotFound);
        let second = UnixListener::bind(&address).unwrap();
        let _connected = socket.connect().unwrap();
        second.accept().unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        let (_directory, place) = place();
        let (_open, address) = short(&place, "other");
        let _listener = UnixListener::bind(&address).unwrap();
        let path = place.join("socket");
        let socket = HostSocket { path: path.clone(), mode: 0o600, uid: 0, gid: 0 };
        symlink("other", &path).unwrap();
        assert_eq!(socket.connect().unwrap_err().raw_os_error(), Some(libc::ELOOP));
        let below = HostSocket { path: place.join("link/other"), ..socket.clone() };
        symlink(&place, place.join("link")).unwrap();
        assert_eq!(below.connect().unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(socket.connect().unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
