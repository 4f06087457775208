//! What host and guest agent agree on: the RPC calls (`proto/agent.proto`) and the vsock addresses.

pub mod cgroup;
pub mod names;
mod plain;
pub mod stats;
pub mod watch;

pub use plain::{Plain, SignalWords};

/// Messages, generated from `proto/agent.proto`.
#[allow(warnings, missing_docs, clippy::all)] // generated
#[rustfmt::skip]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/agent.rs"));
}

/// Client and server of the service, generated from `proto/agent.proto`.
#[allow(warnings, missing_docs, clippy::all)] // generated
#[rustfmt::skip]
pub mod agent_ttrpc {
    use super::agent;

    include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
}

/// vsock port on which the agent serves ttrpc.
pub const AGENT_PORT: u32 = 1024;

/// vsock port on which the agent takes stdio streams. The first eight bytes of a connection are its token, little-endian.
pub const STDIO_PORT: u32 = 1025;

/// vsock port of the debug shell; only an initramfs built with `rootfs-builder --debug` listens there.
pub const DEBUG_PORT: u32 = 1026;

/// vsock port on the *host* to which the agent connects once it listens on [`AGENT_PORT`] and [`STDIO_PORT`].
/// The connection itself is the message; the agent keeps it open.
pub const READY_PORT: u32 = 1024;

/// vsock port on the *host* to which the agent connects when the guest wants more memory. The connection is the message; it is always
/// refused.
pub const MEMORY_PORT: u32 = 1025;

/// vsock context id of the guest. Each VM has its own vsock device, so all guests can have the same one.
pub const GUEST_CID: u32 = 3;

/// Tag of the virtio-fs device that shares the container's directories.
pub const SHARE_TAG: &str = "sandbox";

/// Where the agent mounts [`SHARE_TAG`].
pub const SHARE_DIR: &str = "/run/sandbox/share";

/// A namespace's path below this directory names a container of the same guest, whose namespace of that kind is meant. There is no such
/// directory.
pub const CONTAINERS_DIR: &str = "/run/sandbox/containers";

/// An option of a bind mount, made by the host and followed by a relative path: something is mounted there on the host, and what holds
/// for the mount itself is not to hold for it. (mount(8) leaves options with `x-` to whoever understands them.)
pub const BELOW_OPTION: &str = "x-sandbox.below=";

/// How far the guest's clock is off at most to be made to run faster or slower instead of being set: 3 minutes' worth.
pub const MAX_SLEW_NS: i64 = 100_000_000;

/// How many descriptors beside 0, 1 and 2 a process can get.
pub const MAX_PRESERVED: u32 = 256;

/// How many network interfaces a container can have beside `lo`: as many windows for devices that come later does a VM have.
pub const MAX_INTERFACES: usize = 8;
/// How many block devices of the host a container can have: as many windows are left for them.
pub const MAX_BLOCK_DEVICES: usize = 7;
/// How many windows there are for devices that the guest's memory comes and goes by.
pub const MAX_MEMORY_WINDOWS: usize = 2;
/// How many addresses each can have.
pub const MAX_ADDRESSES: usize = 64;
/// How many settings of each can be given.
pub const MAX_SETTINGS: usize = 64;
/// How many routes there can be.
pub const MAX_ROUTES: usize = 1024;
/// How many permanent entries for neighbours.
pub const MAX_NEIGHBOURS: usize = 1024;

/// vsock port of the guest on which the agent carries the container's questions for names to the host: what asks 127.0.0.11 in the
/// guest is answered by 127.0.0.11 of the host's side of the container's network. What passes there: [`names`].
pub const NAMES_PORT: u32 = 1027;

/// vsock port of the guest on which host and agent see to it that programs that watch shared files see what the host changes ([`watch`]).
pub const WATCH_PORT: u32 = 1028;

/// Where the agent makes the sockets that stand for the host's: `SOCKETS_DIR/ID/INDEX`, by their place in the request's list.
pub const SOCKETS_DIR: &str = "/run/sandbox/sockets";
/// How many of them a container can have.
pub const MAX_SOCKETS: usize = 64;
/// How many connections to them can be open at once. Further ones wait until one is closed.
pub const MAX_SOCKET_CONNECTIONS: usize = 256;

/// Where the agent makes a container's socket for sd_notify(3): in `NOTIFY_DIR/ID`, as [`NOTIFY_NAME`].
pub const NOTIFY_DIR: &str = "/run/sandbox/notify";
/// The name of that socket, which the container sees in `/run/notify`.
pub const NOTIFY_NAME: &str = "notify.sock";
/// A message for sd_notify(3) is cut to this.
pub const MAX_NOTIFY: usize = 4096;

/// A connection to one of a container's host sockets, as the agent tells the host of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketConnection {
    /// Of the stream that the host is to connect for it.
    pub token: u64,
    /// Which socket.
    pub index: u32,
    /// Who connects: the user's and the group's id outside of the container's user namespace.
    pub uid: u32,
    /// See there.
    pub gid: u32,
}

impl SocketConnection {
    /// Its length on the stream.
    pub const LENGTH: usize = 20;

    /// As it is sent.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let words = [self.token as u32, (self.token >> 32) as u32, self.index, self.uid, self.gid];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What was sent.
    pub fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let mut words = bytes.chunks_exact(4).map(|chunk| match chunk {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        });
        let mut next = || words.next().unwrap_or_default();
        let token = u64::from(next()) | u64::from(next()) << 32;
        Self { token, index: next(), uid: next(), gid: next() }
    }
}

/// How long the agent waits for a stream that a request names by token, in seconds.
pub const STDIO_TIMEOUT_SECONDS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_as_they_are_written() {
        let connection = SocketConnection { token: 0x0102_0304_0506_0708, index: 3, uid: 1000, gid: 0xfffe };
        let bytes = connection.to_bytes();
        assert_eq!(bytes[..9], [8, 7, 6, 5, 4, 3, 2, 1, 3]);
        assert_eq!(SocketConnection::from_bytes(&bytes), connection);
    }
}
