//! Unix sockets of the host's in a container (`-v /var/run/docker.sock:/var/run/docker.sock`). A socket's node means something to the
//! kernel that it was bound in only, so there is one of the agent's in its place. The host is told of each connection to it and connects
//! a stream for it, whose other end is a connection to the socket of the host.
//!
//! The programs can connect as often as they like: connections beyond the limit wait in the kernel's queue, and each has two buffers.

mod carry;
mod directory;

use std::collections::hash_map::RandomState;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_protocol::agent::HostSockets;
use agent_protocol::{MAX_SOCKET_CONNECTIONS, MAX_SOCKETS, SOCKETS_DIR, SocketConnection};
use rustix::net::SendFlags;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_vsock::VsockStream;

use crate::agent::Agent;
use crate::streams;
pub use directory::Directory;

/// How long what programs have sent may still take once the container has ended: the host need not read it.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Why a container cannot have them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request that cannot be.
    #[error("sockets: {0}")]
    Request(&'static str),
    /// The stream on which the host is to be told.
    #[error(transparent)]
    Stream(#[from] streams::Error),
    /// One that could not be made.
    #[error("cannot make socket {index} of the container's: {}", agent_protocol::Plain(source))]
    Make {
        /// Which.
        index: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Where they are.
    #[error("cannot make the directory of the container's sockets: {}", agent_protocol::Plain(.0))]
    Directory(io::Error),
}

/// Refuses what cannot be.
pub fn check(wanted: &HostSockets) -> Result<(), Error> {
    if wanted.list.len() > MAX_SOCKETS {
        return Err(Error::Request("there are too many"));
    }
    if wanted.list.is_empty() != (wanted.token == 0) {
        return Err(Error::Request("there is a token for the list, or none without one"));
    }
    match wanted.list.iter().any(|one| one.mode > 0o7777 || one.uid == u32::MAX || one.gid == u32::MAX) {
        true => Err(Error::Request("a mode or an owner is impossible")),
        false => Ok(()),
    }
}

/// A container's sockets, which nobody serves yet.
pub struct Sockets {
    directory: Directory,
    listeners: Vec<UnixListener>,
    to_host: VsockStream,
}

impl Sockets {
    /// Makes them, if there are to be any.
    pub async fn open(agent: &Agent, id: &str, wanted: &HostSockets) -> Result<Option<Self>, Error> {
        if wanted.list.is_empty() {
            return Ok(None);
        }
        let to_host = agent.streams.claim(wanted.token).await?;
        let directory = Directory::make(SOCKETS_DIR, id).map_err(Error::Directory)?;
        let listen = |(index, one): (usize, &agent_protocol::agent::HostSocket)| {
            let name = index.to_string();
            let listener = listen(&directory.address(&name));
            let made = listener.and_then(|listener| {
                directory.set(&name, Some((one.uid, one.gid)), one.mode)?;
                Ok(listener)
            });
            made.map_err(|source| Error::Make { index, source })
        };
        let listeners = wanted.list.iter().enumerate().map(listen).collect::<Result<_, _>>()?;
        Ok(Some(Self { directory, listeners, to_host }))
    }

    /// Serves them until [`Serving::finish`].
    pub fn serve(self, agent: Arc<Agent>) -> Serving {
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _directory = self.directory;
            let host = Arc::new(Host { agent, stream: Mutex::new(self.to_host) });
            serve(&self.listeners, ended, |client, index| connect(client, index, host.clone())).await;
        });
        Serving { end, task }
    }
}

fn listen(address: &str) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::bind(address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Sockets that are served.
pub struct Serving {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Serving {
    /// To be called when the container's processes have ended: what they sent before is carried.
    pub async fn finish(self) {
        drop(self.end);
        let _ = self.task.await;
    }
}

/// Takes connections until the end, and then those that were made before it.
async fn serve<F>(
    listeners: &[UnixListener],
    mut ended: oneshot::Receiver<()>,
    connect: impl Fn(UnixStream, usize) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut first = 0;
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(_) = connections.join_next() => {}
            (index, accepted) = poll_fn(|cx| poll_accept(listeners, first, cx)),
                if connections.len() < MAX_SOCKET_CONNECTIONS =>
            {
                // So that none is served first for ever.
                first = index + 1;
                match accepted {
                    Ok(client) => drop(connections.spawn(connect(client, index))),
                    Err(error) => wait_after_error(&error).await,
                }
            }
        }
    }
    for (index, listener) in listeners.iter().enumerate() {
        while connections.len() < MAX_SOCKET_CONNECTIONS
            && let Some(client) = accept_now(listener)
        {
            connections.spawn(connect(client, index));
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_BYTES, all).await.is_err() {
        log::warn!("the host did not take all that was sent to its sockets");
    }
}

fn poll_accept(
    listeners: &[UnixListener],
    first: usize,
    cx: &mut Context<'_>,
) -> Poll<(usize, io::Result<UnixStream>)> {
    for (index, listener) in listeners.iter().enumerate().cycle().skip(first % listeners.len().max(1)) {
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            return Poll::Ready((index, accepted.map(|(client, _)| client)));
        }
        if (index + 1) % listeners.len() == first % listeners.len() {
            break;
        }
    }
    Poll::Pending
}

/// A connection that waits, whatever the event loop believes.
fn accept_now(listener: &UnixListener) -> Option<UnixStream> {
    let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
    let client = rustix::net::accept_with(listener, flags).ok()?;
    UnixStream::from_std(client.into()).ok()
}

/// Lest an error that stays keeps the agent busy.
async fn wait_after_error(error: &io::Error) {
    log::debug!("a socket of a container's: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// What all connections of a container need.
struct Host {
    agent: Arc<Agent>,
    /// Where the host is told.
    stream: Mutex<VsockStream>,
}

/// Has the host connect, and carries the connection to its end.
async fn connect(client: UnixStream, index: usize, host: Arc<Host>) {
    // Of the moment when it connected: a socket that was passed on since stays its maker's.
    let Ok(peer) = client.peer_cred() else { return };
    let (token, index) = (token(), index as u32);
    let connection = SocketConnection { token, index, uid: peer.uid(), gid: peer.gid() };
    // Whole ones only, one after the other.
    let told = host.stream.lock().await.write_all(&connection.to_bytes()).await;
    if told.is_err() {
        return;
    }
    let Ok(stream) = host.agent.streams.claim(token).await else {
        return log::warn!("the host did not take a connection to socket {index}");
    };
    let Ok(same) = rustix::io::fcntl_dupfd_cloexec(&stream, 3) else { return };
    let (from_host, to_host) = stream.into_split();
    carry::carry(client, from_host, to_host, || is_gone(&same)).await;
}

/// Nobody else can know it, or come to it by chance. Not 0.
fn token() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// Whether the host has closed a stream altogether: nothing can be sent, not even nothing.
fn is_gone(stream: &OwnedFd) -> bool {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::send(stream.as_fd(), &[], flags);
    sent.is_err_and(|error| error != rustix::io::Errno::AGAIN)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
