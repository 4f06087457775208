//! Who plugs network devices into a micro-VM: the proxy of the container that has it, by its monitor. The proxy of one that lives in
//! another one's asks that one's proxy, which has lent it what it needs for as long as their connection is open.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::control::{MonitorEvent, MonitorOrder};
use crate::descriptors;
use crate::joined::Owner;
use crate::monitor_process::{MonitorError, MonitorProcess, Role};
use crate::state::exec_socket_in;

/// Said to another container's proxy, with this container's ID after it: orders for its monitor follow.
pub const WINDOWS: &str = ":windows ";
/// Answered to that, so that no descriptor comes with what was read before.
pub const READY: u8 = b'+';
/// How long the other proxy may take: its monitor has ten seconds for an order, and ten for one before.
const TIMEOUT: Duration = Duration::from_secs(35);
/// Longer than any answer.
const ANSWER_LIMIT: u64 = 4096;

/// Where devices come and go.
pub trait Windows {
    /// Plugs a network device in, behind a tap's queues and, if it is there, the host kernel's vhost-net for each. Gives its window, or the
    /// monitor's sentence.
    fn plug(&self, mac: [u8; 6], queues: &[OwnedFd], vhosts: &[OwnedFd]) -> Result<Result<u32, String>, MonitorError> {
        let descriptors: Vec<BorrowedFd<'_>> = queues.iter().chain(vhosts).map(AsFd::as_fd).collect();
        self.order(&MonitorOrder::Plug { mac, queues: queues.len() }, &descriptors)
    }

    /// Takes the device in a window out, once the guest has let go of it.
    fn unplug(&self, window: u32) -> Result<Result<(), String>, MonitorError> {
        Ok(self.order(&MonitorOrder::Unplug { window }, &[])?.map(drop))
    }

    /// Has an order carried out.
    fn order(&self, order: &MonitorOrder, with: &[BorrowedFd<'_>]) -> Result<Result<u32, String>, MonitorError>;
}

impl Windows for MonitorProcess {
    fn order(&self, order: &MonitorOrder, with: &[BorrowedFd<'_>]) -> Result<Result<u32, String>, MonitorError> {
        self.carry_out(order, with)
    }
}

/// Windows of another container's micro-VM. When this is dropped, or this process is killed, its devices are unplugged once the container
/// has ended.
#[derive(Debug)]
pub struct Lent {
    owner: String,
    connection: UnixStream,
}

impl Lent {
    /// Asks the proxy of the container that has the micro-VM, below `root`, for container `id`.
    pub fn new(id: &str, root: &Path, owner: &Owner) -> io::Result<Self> {
        let directory = File::open(root.join(&owner.id))?;
        Self::over(UnixStream::connect(exec_socket_in(directory.as_fd()))?, id, &owner.id)
    }

    /// Takes a connection to the proxy of container `owner`.
    pub(crate) fn over(mut connection: UnixStream, id: &str, owner: &str) -> io::Result<Self> {
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.write_all(format!("{WINDOWS}{id}\n").as_bytes())?;
        let mut answer = [0];
        connection.read_exact(&mut answer)?;
        if answer != [READY] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { owner: owner.to_string(), connection })
    }

    fn ask(&self, order: &MonitorOrder, with: &[BorrowedFd<'_>]) -> io::Result<Result<u32, String>> {
        let line = serde_json::to_vec(order)?;
        descriptors::send(self.connection.as_fd(), with, &line)?;
        let mut answer = String::new();
        BufReader::new((&self.connection).take(ANSWER_LIMIT)).read_line(&mut answer)?;
        serde_json::from_str::<MonitorEvent>(&answer)?.window().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Windows for Lent {
    fn order(&self, order: &MonitorOrder, with: &[BorrowedFd<'_>]) -> Result<Result<u32, String>, MonitorError> {
        let silent = |source| MonitorError::Silent { role: Role::Monitor, id: self.owner.clone(), source };
        // What is answered later would be taken for the answer to another order. The other proxy takes back what it has lent.
        let answered = self.ask(order, with).inspect_err(|_| drop(self.connection.shutdown(Shutdown::Both)));
        answered.map_err(silent)
    }
}
