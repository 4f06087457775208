//! virtio console (virtio 1.2, section 5.3): the guest kernel's log. Nothing is ever typed into it.
//!
//! It has no state beside its queues.

mod device;

#[cfg(test)]
mod tests;

pub use device::Console;
