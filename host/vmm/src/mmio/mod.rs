//! virtio over MMIO (virtio 1.2, section 4.2): the register window of each device, and the bus that finds the window.

mod bus;
mod persist;
mod transport;

#[cfg(test)]
mod tests;

pub use bus::MmioBus;
pub use persist::MmioState;
pub use transport::{MmioTransport, TransportError};
