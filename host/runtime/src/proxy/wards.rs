//! What a container's proxy does for the proxies of its exec'd processes: one that is killed before its process has ended takes the
//! process with it. SIGKILL can be forwarded by nobody else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use crate::guest::Guest;
use crate::state::{exec_socket_in, socket_in};

/// Longer than any name of a process.
const LINE_LIMIT: u64 = 128;
/// Said by a proxy whose process has ended.
const ENDED: u8 = b'.';

/// Takes connections for as long as this process lives.
pub(super) fn watch(id: &str, state: Arc<OwnedFd>) -> io::Result<()> {
    let listener = UnixListener::bind(exec_socket_in(state.as_fd()))?;
    let id = id.to_string();
    let accept = move || {
        for connection in listener.incoming().flatten() {
            let (id, state) = (id.clone(), state.clone());
            // Without a thread nobody watches this one; it has its process nevertheless.
            let _ = thread::Builder::new().name("ward".to_string()).spawn(move || guard(connection, &id, &state));
        }
    };
    thread::Builder::new().name("wards".to_string()).spawn(accept).map(drop)
}

fn guard(connection: UnixStream, id: &str, state: &OwnedFd) {
    let mut reader = BufReader::new(connection);
    let mut name = String::new();
    if reader.by_ref().take(LINE_LIMIT).read_line(&mut name).is_err() || !name.ends_with('\n') {
        return;
    }
    let mut last = Vec::new();
    let _ = reader.take(LINE_LIMIT).read_to_end(&mut last);
    if last.first() != Some(&ENDED) {
        // An error means that there is nobody left to kill.
        let guest = Guest::reach(&socket_in(state.as_fd()), id).map(|guest| guest.of_process(name.trim_end()));
        let _ = guest.map(|guest| guest.signal(9, false));
    }
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
