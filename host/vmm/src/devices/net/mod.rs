//! virtio network device (virtio 1.2, section 5.1) behind a tap of the host: a receive queue and a transmit queue, or, for a guest with
//! several CPUs, several such pairs and a control queue.
//!
//! ```text
//!                        device loop: Worker, a Pair for each queue of the tap
//!  tap ──read──▶ RxQueue ──▶ chains of receiveq  ──▶ guest        (or the host's kernel between the same ends: vhost.rs)
//!  tap ◀─write── TxQueue ◀── chains of transmitq ◀──
//!        attached or not ◀── ControlQueue        ◀── how many pairs are used
//! ```
//! `device.rs` is what the transport drives, `worker.rs` the subscriber on the device loop, `pair.rs` a queue pair, `rx.rs` and `tx.rs` its
//! two queues, `control.rs` the control queue, `held.rs` the receive buffers that are being gathered for a frame, `chain.rs` descriptor
//! chains, `header.rs` the header before each frame and the offloads that it speaks of, `setting.rs` when the tap is told of these and of
//! the pairs in use, `vhost.rs` the hand-over to the kernel, `sys.rs` the ioctls.
//!
//! Tap and guest exchange frames with the same header, struct virtio_net_hdr_v1 of 12 bytes. Frames are lost where a
//! wire would lose them: when the other side does not take them, or when they are none. What the guest sends is not
//! looked at beyond its length: the kernel checks the header of whatever is written to a tap, and what the frame holds
//! is the host network's concern.
//!
//! The device has no state beside its queues.

mod chain;
mod control;
mod device;
mod header;
mod held;
mod pair;
mod rx;
mod setting;
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
mod tests_pairs;
#[cfg(test)]
mod tests_sys;
#[cfg(test)]
mod tests_tap;

pub use device::{MAX_QUEUE_PAIRS, Net, NetConfig, QueuePair};
pub use sys::{IOCTLS, MAIN_IOCTLS};
