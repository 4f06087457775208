//! The vsock device (virtio 1.2, 5.10): stream connections between the guest and Unix sockets of the host.
//!
//! ```text
//!  client ──"CONNECT 1024\n"──▶ listener        device loop         rx queue ──▶ guest listens on port 1024
//!         ◀──"OK 1073741824\n"── Unix stream ◀── Connection ──▶     tx queue ◀──
//! ```
//! `device.rs` is what the transport drives, `worker.rs` the queues on the device loop, `muxer.rs` the table of connections,
//! `connection.rs` one connection with its credit and half-closes, `packet.rs` headers and descriptor chains, `socket.rs` and
//! `outbox.rs` the way of the bytes.
//!
//! Nothing here blocks, and nothing grows without a bound: connections, queued replies and the bytes held for a client that does
//! not read are all limited (see the constants in `muxer.rs` and `connection.rs`).
//!
//! Writes go to sockets whose peer may be gone: the process has to ignore SIGPIPE, as Rust's runtime does.

mod connection;
mod device;
mod muxer;
mod outbox;
mod packet;
mod persist;
mod socket;
mod worker;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_driver;
#[cfg(test)]
mod tests_hostile;
#[cfg(test)]
mod tests_muxer;
#[cfg(test)]
mod tests_transfer;

pub use device::{Vsock, VsockConfig};
pub use persist::VsockState;
#[cfg(test)]
pub(super) use tests_driver::Random;
