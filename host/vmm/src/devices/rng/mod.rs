//! virtio entropy device (virtio 1.2, section 5.4): one queue of buffers to fill with random bytes.
//!
//! It has no state beside its queues.

mod device;

#[cfg(test)]
mod tests;

pub use device::Rng;
