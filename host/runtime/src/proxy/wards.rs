//! What a container's proxy does for others, by way of a socket in the state directory.
//!
//! For the proxies of its exec'd processes: one that is killed before its process has ended takes the
//! process with it. SIGKILL can be forwarded by nobody else. For `start`: it looks at the container's network once more. For the proxies of
//! containers in the same micro-VM: see [`lending`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::lending;
use crate::guest::{CALL_TIMEOUT, ConnectError, Guest, GuestError};
use crate::network::windows::WINDOWS;
use crate::rpc::RpcError;
use crate::session::Session;
use crate::state::{exec_socket_in, socket_in};

/// Longer than any name of a process, or of a container.
const LINE_LIMIT: u64 = 512;
/// Said by a proxy whose process has ended.
const ENDED: u8 = b'.';

/// Lest an error that stays keeps a processor busy.
const PAUSE: Duration = Duration::from_millis(10);

/// Each takes as long as a guest may take to answer.
const ATTEMPTS: usize = 6;

/// Said instead of a name, in which there is no colon: the network is to be looked at.
const NETWORK: &str = ":network\n";
/// The longest answer to that.
const ANSWER_LIMIT: u64 = 4096;

/// Takes connections for as long as this process lives.
pub(super) fn watch(id: &str, session: &Arc<Session>) -> io::Result<()> {
    let listener = UnixListener::bind(exec_socket_in(session.state().as_fd()))?;
    let (id, session) = (id.to_string(), Arc::downgrade(session));
    let accept = move || {
        for connection in listener.incoming() {
            // Without a descriptor to spare: who connects is there until there is one.
            let Ok(connection) = connection else {
                thread::sleep(PAUSE);
                continue;
            };
            let (id, session) = (id.clone(), session.clone());
            // Without a thread nobody watches this one; it has its process nevertheless.
            let _ = thread::Builder::new().name("ward".to_string()).spawn(move || guard(connection, &id, &session));
        }
    };
    thread::Builder::new().name("wards".to_string()).spawn(accept).map(drop)
}

fn guard(connection: UnixStream, id: &str, session: &Weak<Session>) {
    let mut reader = BufReader::new(connection);
    let mut name = String::new();
    if reader.by_ref().take(LINE_LIMIT).read_line(&mut name).is_err() || !name.ends_with('\n') {
        return;
    }
    let Some(state) = session.upgrade().map(|session| session.state()) else { return };
    if let Some(other) = name.strip_prefix(WINDOWS) {
        // A connection that fails has ended all the same.
        let _ = lending::lend(reader.into_inner(), session, other.trim_end());
        return;
    }
    if name == NETWORK {
        let followed = session.upgrade().map_or(Ok(()), |session| session.follow_network());
        let answer = followed.err().map(|error| error.to_string()).unwrap_or_default();
        let _ = reader.get_mut().write_all(answer.as_bytes());
        return;
    }
    let mut last = Vec::new();
    let _ = reader.take(LINE_LIMIT).read_to_end(&mut last);
    if last.first() != Some(&ENDED) {
        kill(&state, id, name.trim_end());
    }
}

/// Has the guest kill an exec'd process. One that is busy is asked again; any other error means that there is nobody left to kill.
fn kill(state: &OwnedFd, id: &str, exec_id: &str) {
    for _ in 0..ATTEMPTS {
        let reached = Guest::reach(&socket_in(state.as_fd()), id).map(|guest| guest.of_process(exec_id));
        match reached.and_then(|guest| guest.signal(9, false).map_err(GuestError::from)) {
            Err(GuestError::Connect(ConnectError::Timeout(_)) | GuestError::Rpc(RpcError::Timeout { .. })) => {}
            _ => return,
        }
    }
}

/// Has the container's proxy look at the network, and waits until the guest has what is there. Gives its sentence if it cannot.
pub fn look_at_network(state: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let mut connection = UnixStream::connect(exec_socket_in(state))?;
    connection.set_read_timeout(Some(CALL_TIMEOUT))?;
    connection.write_all(NETWORK.as_bytes())?;
    let mut answer = String::new();
    connection.take(ANSWER_LIMIT).read_to_string(&mut answer)?;
    Ok((!answer.is_empty()).then_some(answer))
}

/// Has the container's proxy watch over this one.
#[derive(Debug)]
pub(super) struct Ward(UnixStream);

impl Ward {
    /// Connects, before the process is there.
    pub fn new(state: BorrowedFd<'_>, exec_id: &str) -> io::Result<Self> {
        let mut connection = UnixStream::connect(exec_socket_in(state))?;
        connection.write_all(format!("{exec_id}\n").as_bytes())?;
        Ok(Self(connection))
    }

    /// The process has ended: there is nothing to kill.
    pub fn release(mut self) {
        let _ = self.0.write_all(&[ENDED]);
    }
}
