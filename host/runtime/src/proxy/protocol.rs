//! What a command and the proxy that it started say to each other: one JSON object a line over a socket pair.
//!
//! The command's end is the proxy's lifeline: when it closes before [`ToProxy::Detach`], the proxy gives up and ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockDevice;
use crate::control::Share;
use crate::joined::Owner;
use crate::log::Log;
use crate::network::devices::NetworkDevice;
use crate::network::ipv6::Switch;
use crate::preserved::Place;
use crate::settings::CachePolicy;
use crate::sockets::HostSockets;

/// File descriptors that a proxy starts with, beside stdin, stdout and stderr.
pub mod fds {
    use std::os::fd::RawFd;

    /// The socket pair's other end.
    pub const COMMAND: RawFd = 3;
    /// The container's state directory.
    pub const STATE: RawFd = 4;
    /// The state directory's lock, held until the container is made (or another open file).
    pub const LOCK: RawFd = 5;
    /// A socket that takes the terminal's master; open only where there is a terminal.
    pub const CONSOLE: RawFd = 6;
    /// The first of what is preserved for the process; the others follow.
    pub const PRESERVED: RawFd = 7;
}

/// The longest line: a configuration can be as large as a message to the agent.
const LINE_LIMIT: u64 = 16 << 20;

/// The network namespace that a container's proxy and monitor live in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The command's.
    #[default]
    Host,
    /// One of its own.
    New,
    /// An existing one.
    Path(PathBuf),
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines of text.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

/// A container that a proxy is to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerOrder {
    /// Its ID.
    pub id: String,
    /// Where its host side lives.
    pub network: Network,
    /// What moves there from where the command is.
    pub network_devices: Vec<NetworkDevice>,
    /// What config.json says there of IPv6.
    pub ipv6_switches: Vec<Switch>,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Guest memory at the start, MiB.
    pub memory_mib: u64,
    /// What it may grow to, MiB.
    pub memory_most_mib: u64,
    /// More of the guest kernel's command line.
    pub kernel_arguments: String,
    /// What the guest may cache of its files.
    pub cache: CachePolicy,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// Where state is kept.
    pub root: PathBuf,
    /// Where the errors go of a container that nobody waits for.
    pub log: Log,
    /// What the guest sees of the host's file system.
    pub shares: Vec<Share>,
    /// Block devices of the host that it gets.
    pub blocks: Vec<BlockDevice>,
    /// Sockets of the host's that the container has.
    pub sockets: HostSockets,
    /// It says when it is ready.
    pub notify: bool,
    /// config.json as the guest gets it.
    pub spec: String,
    /// The container's process has a terminal.
    pub terminal: bool,
    /// The container gets no session keyring of its own.
    pub no_new_keyring: bool,
    /// Of the terminal, if it is known.
    pub size: Option<Size>,
    /// How soon the host's kernel is to end the micro-VM for want of memory (`process.oomScoreAdj`).
    pub oom_score: Option<i32>,
    /// What the descriptors from [`fds::PRESERVED`] up are for.
    pub preserved: Vec<Place>,
    /// What its hooks in the guest may take before it is made, and when it is started.
    pub hook_seconds: HookSeconds,
    /// The command waits for the container's end.
    pub attached: bool,
    /// It lives in another container's micro-VM.
    pub joined: Option<Owner>,
    /// Its network is another container's in that micro-VM.
    pub shares_network: bool,
    /// When the command started, and when it had read the configuration, by CLOCK_MONOTONIC: for the trace.
    pub started_ns: [u64; 3],
}

/// How long hooks in the guest may take, as far as they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSeconds {
    /// createContainer.
    pub create: u64,
    /// startContainer.
    pub start: u64,
}

/// One more process in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOrder {
    /// The container's ID.
    pub id: String,
    /// The process's name in the guest.
    pub exec_id: String,
    /// The container's proxy, whose network namespace is the host side's.
    pub container_pid: i32,
    /// An OCI process.
    pub process: String,
    /// Of the terminal, if it is known.
    pub size: Option<Size>,
    /// What the descriptors from [`fds::PRESERVED`] up are for.
    pub preserved: Vec<Place>,
    /// Below the container's own cgroup, or empty.
    pub sub_cgroup: String,
    /// Start it in a paused container too.
    pub ignore_paused: bool,
}

/// What a command says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum ToProxy {
    /// First: what to make.
    Container(Box<ContainerOrder>),
    /// First: what to start.
    Exec(Box<ExecOrder>),
    /// After [`FromProxy::Placed`]: what the host does before the container is made has been done.
    Proceed {
        /// The container's state for hooks in the guest.
        state: String,
    },
    /// After [`FromProxy::Ready`]: the command has kept what it needs, and is about to end.
    Detach,
    /// After [`FromProxy::Ready`]: execute the container's process.
    Start,
}

/// What a proxy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FromProxy {
    /// It is in the network namespace, and the guest boots.
    Placed {
        /// The monitor's process id.
        monitor: i32,
    },
    /// Something that the caller is to know, and that ends nothing.
    Warning {
        /// One sentence.
        message: String,
    },
    /// The container is made, or the process was executed.
    Ready,
    /// The container's process was executed.
    Started,
    /// It gives up.
    Failed {
        /// One sentence.
        message: String,
        /// The command's exit status.
        status: u8,
    },
}

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel {
    reader: BufReader<UnixStream>,
}

impl Channel {
    /// Takes a socket.
    pub fn new(socket: UnixStream) -> Self {
        Self { reader: BufReader::new(socket) }
    }

    /// What writes to the other end, from another thread maybe.
    pub fn sender(&self) -> io::Result<Sender> {
        self.reader.get_ref().try_clone().map(Sender)
    }

    /// The next message; nothing at the end.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        if self.reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct Sender(UnixStream);

impl Sender {
    /// Sends one message.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_pass() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut here, there) = (Channel::new(here), Channel::new(there));
        there.sender().unwrap().send(&FromProxy::Placed { monitor: 7 }).unwrap();
        assert_eq!(here.receive().unwrap(), Some(FromProxy::Placed { monitor: 7 }));
        drop(there);
        assert_eq!(here.receive::<FromProxy>().unwrap(), None);
    }
}
