//! virtio memory device (virtio 1.3, section 5.15): a region of guest physical addresses into which the guest plugs as much memory as it
//! is asked to.
//!
//! ```text
//!  MemControl::request ──▶ requested_size, config interrupt ──▶ driver: PLUG block by block ──▶ plugged_size
//! ```
//! The host only ever asks for more. What the guest unplugs by itself, as its driver does after an error, goes back to the host.

mod blocks;
mod device;
mod request;

#[cfg(test)]
mod tests;

pub use device::{Mem, MemControl};
