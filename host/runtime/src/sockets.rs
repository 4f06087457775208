//! Unix sockets of the host's that a container has (`-v /var/run/docker.sock:/var/run/docker.sock`). The node of a socket is of use to
//! the host's kernel only; so the agent has a socket of its own in the container, and tells of each connection to it. The container's
//! proxy connects to the host's then, and carries what both sides send.
//!
//! The guest may tell whatever it likes. What it can have is a connection to one of the sockets that the configuration names, as somebody
//! that its processes could be on the host, and not more at once than [`MAX_SOCKET_CONNECTIONS`].

mod carry;
mod identity;
mod source;

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::agent::{HostSocket as Description, HostSockets as Descriptions};
use agent_protocol::{MAX_SOCKET_CONNECTIONS, SocketConnection};
use serde::{Deserialize, Serialize};

use crate::guest::{ConnectError, connect_stdio};
use crate::sys::random_token;
pub use identity::Identities;
pub use source::{HostSocket, SourceError};

/// How long what the container has sent may still take once it has ended: who it is for need not read it.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// A connection's buffers are not on its thread's stack.
const STACK: usize = 128 << 10;

/// A container's sockets, and who their clients can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSockets {
    /// In the order of the mounts.
    pub list: Vec<HostSocket>,
    /// Users and groups on the host that the container's processes can be.
    pub identities: Identities,
}

/// A connection that there will not be.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// The guest named a socket that is none.
    #[error("there is no socket {0}")]
    NoSuch(u32),
    /// The guest named somebody.
    #[error("user {0} and group {1} are not of the container's user namespace")]
    Nobody(u32, u32),
    /// The guest's side.
    #[error(transparent)]
    Guest(#[from] ConnectError),
    /// The host's side.
    #[error("{}: {source}", .path.display())]
    Host {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What carries a container's connections.
#[derive(Debug)]
pub struct Carrying(Arc<Open>);

/// How many connections there are.
#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Open {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless there are too many.
    fn add(self: &Arc<Self>) -> Option<Place> {
        let mut count = self.count();
        if *count >= MAX_SOCKET_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Place(self.clone()))
    }
}

/// A connection's place among them.
struct Place(Arc<Open>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.fewer.notify_all();
    }
}

impl Carrying {
    /// To be called when the container has ended, and before its guest does: what it sent before is carried.
    pub fn finish(&self) {
        let Self(open) = self;
        let _ = open.fewer.wait_timeout_while(open.count(), LAST_BYTES, |count| *count > 0);
    }
}

/// Begins to carry, if there is anything: what the agent is to make, and what carries. `guest` is the socket to the guest; it need not
/// have booted.
pub fn start(guest: &Path, sockets: HostSockets) -> io::Result<Option<(Descriptions, Carrying)>> {
    if sockets.list.is_empty() {
        return Ok(None);
    }
    let token = random_token()?;
    let describe = |one: &HostSocket| Description { mode: one.mode, uid: one.uid, gid: one.gid, ..Default::default() };
    let list = sockets.list.iter().map(describe).collect();
    let open = Arc::new(Open::default());
    let (guest, carrying) = (guest.to_path_buf(), Carrying(open.clone()));
    spawn(move || {
        // One that cannot be made fails the container, as the agent waits for it.
        if let Ok(stream) = connect_stdio(&guest, token) {
            follow(stream, &guest, &Arc::new(sockets), &open);
        }
    })?;
    Ok(Some((Descriptions { token, list, ..Default::default() }, carrying)))
}

fn spawn(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("socket".to_string()).stack_size(STACK).spawn(run).map(drop)
}

/// Makes the connections that the agent tells of, until the guest's end.
fn follow(mut agent: UnixStream, guest: &Path, sockets: &Arc<HostSockets>, open: &Arc<Open>) {
    let mut bytes = [0; SocketConnection::LENGTH];
    while agent.read_exact(&mut bytes).is_ok() {
        let connection = SocketConnection::from_bytes(&bytes);
        // The agent counts too. It closes what is not connected.
        let Some(place) = open.add() else { continue };
        let (guest, sockets) = (guest.to_path_buf(), sockets.clone());
        // Told with `--debug` only: a program that connects again and again would fill the host's log.
        let spawned = spawn(move || {
            let _place = place;
            serve(&guest, &sockets, connection)
                .unwrap_or_else(|refusal| log::debug!("a socket of the host's: {refusal}"));
        });
        spawned.unwrap_or_else(|error| log::debug!("a socket of the host's: {error}"));
    }
}

/// One connection, to its end. This thread is nobody but its client afterwards.
fn serve(guest: &Path, sockets: &HostSockets, connection: SocketConnection) -> Result<(), Refusal> {
    let SocketConnection { token, index, uid, gid } = connection;
    let socket = usize::try_from(index).ok().and_then(|index| sockets.list.get(index));
    let socket = socket.ok_or(Refusal::NoSuch(index))?;
    if !sockets.identities.allow(uid, gid) {
        return Err(Refusal::Nobody(uid, gid));
    }
    // First: the agent waits for it. The client sees the end of a connection that cannot be made.
    let client = connect_stdio(guest, token)?;
    let failed = |source| Refusal::Host { path: socket.path.clone(), source };
    identity::assume(uid, gid).map_err(failed)?;
    let host = socket.connect().map_err(failed)?;
    carry::carry(&client, &host).map_err(failed)
}

#[cfg(test)]
mod tests;
