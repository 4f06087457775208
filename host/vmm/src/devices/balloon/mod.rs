//! virtio memory balloon (virtio 1.3, section 5.5), for free page reporting alone: the guest tells which of its memory it does not use, and
//! the host has that back until the guest touches it again.
//!
//! The balloon itself stays empty: its target is 0, and what a driver inflates nevertheless is none of the host's gain.
//!
//! It has no state beside its queues.

mod device;

#[cfg(test)]
mod tests;

pub use device::Balloon;
