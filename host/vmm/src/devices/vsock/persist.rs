//! What a snapshot keeps of the device.

use super::device::Vsock;

/// The device's state, apart from its descriptors and connections. Connections do not outlive a snapshot: the guest is told to
/// reset them (virtio 1.2, 5.10.6.7), the listener stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockState {
    /// The guest's context id.
    pub guest_cid: u64,
    /// The host port on which the guest reports that it listens.
    pub ready_port: u32,
    /// Feature bits that the driver accepted; zero unless active.
    pub features: u64,
    /// Whether the driver has activated the device.
    pub active: bool,
    /// Whether the guest has connected to `ready_port` since then, so that connections to it are let through.
    pub listening: bool,
}

impl From<&Vsock> for VsockState {
    fn from(vsock: &Vsock) -> Self {
        vsock.state()
    }
}
