//! virtio block device (virtio 1.2, section 5.2) before a file or a block device of the host.
//!
//! ```text
//!  driver ──kick──▶ eventfd ──▶ the device's worker: check a chain, carry it out on the file, give it back, interrupt
//! ```
//! Each device has a thread of its own, since what is behind the file may take its time. Data goes between guest memory and
//! the host's page cache without a copy in between; a flush is fdatasync(2).

mod chain;
mod device;
mod disk;
mod persist;
mod worker;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_driver;

pub use device::{Blk, BlkConfig, BlkError};
pub use persist::BlkState;

/// Descriptors in the one queue.
const QUEUE_SIZE: u16 = 256;
/// What virtio counts in, whatever the block size is.
const SECTOR: u64 = 512;
