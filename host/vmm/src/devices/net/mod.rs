//! virtio network device (virtio 1.2, section 5.1) behind a tap of the host: one receive queue, one transmit queue.
//!
//! ```text
//!                        device loop: Worker
//!  tap ──read──▶ RxQueue ──▶ chains of queue 0 ──▶ guest          (or the host's kernel between the same ends: vhost.rs)
//!  tap ◀─write── TxQueue ◀── chains of queue 1 ◀──
//! ```
//! `device.rs` is what the transport drives, `worker.rs` the subscriber on the device loop, `rx.rs` and `tx.rs` the two
//! queues, `held.rs` the receive buffers that are being gathered for a frame, `chain.rs` descriptor chains, `header.rs`
//! the header before each frame and the offloads that it speaks of, `offloads.rs` when the tap is told of these, `vhost.rs` the hand-over to the kernel, `sys.rs`
//! the ioctls.
//!
//! Tap and guest exchange frames with the same header, struct virtio_net_hdr_v1 of 12 bytes. Frames are lost where a
//! wire would lose them: when the other side does not take them, or when they are none. What the guest sends is not
//! looked at beyond its length: the kernel checks the header of whatever is written to a tap, and what the frame holds
//! is the host network's concern.
//!
//! The device has no state beside its queues.

mod chain;
mod device;
mod header;
mod held;
mod offloads;
mod rx;
mod sys;
mod tx;
mod vhost;
mod worker;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_driver;
#[cfg(test)]
mod tests_hostile;
#[cfg(test)]
mod tests_sys;
#[cfg(test)]
mod tests_tap;

pub use device::{Net, NetConfig};
pub use sys::{IOCTLS, MAIN_IOCTLS};
