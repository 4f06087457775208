//! What a snapshot keeps of the transport.

/// The registers that the driver has written, apart from those of the queues (`virtio_queue::QueueState`) and the interrupt's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmioState {
    /// Device status (virtio 1.2, 2.1), without DEVICE_NEEDS_RESET.
    pub status: u32,
    /// The queues have moved into the device.
    pub activated: bool,
    /// Which half of the device's features is read.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// The features that the driver takes.
    pub driver_features: u64,
    /// Which queue the queue registers concern.
    pub queue_select: u32,
}
