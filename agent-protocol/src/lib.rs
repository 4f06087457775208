//! What host and guest agent agree on: the RPC calls (`proto/agent.proto`) and the vsock addresses.

pub mod cgroup;
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

/// How many descriptors beside 0, 1 and 2 a process can get.
pub const MAX_PRESERVED: u32 = 256;

/// How many network interfaces a container can have beside `lo`: as many windows for devices that come later does a VM have.
pub const MAX_INTERFACES: usize = 8;
/// How many addresses each can have.
pub const MAX_ADDRESSES: usize = 64;
/// How many routes there can be.
pub const MAX_ROUTES: usize = 1024;
/// How many permanent entries for neighbours.
pub const MAX_NEIGHBOURS: usize = 1024;

/// vsock port of the guest on which the agent carries the container's questions for names to the host: what asks 127.0.0.11 in the
/// guest is answered by 127.0.0.11 of the host's side of the container's network.
pub const NAMES_PORT: u32 = 1027;

/// vsock port of the guest on which host and agent see to it that programs that watch shared files see what the host changes ([`watch`]).
pub const WATCH_PORT: u32 = 1028;

/// How long the agent waits for a stream that a request names by token, in seconds.
pub const STDIO_TIMEOUT_SECONDS: u64 = 10;
