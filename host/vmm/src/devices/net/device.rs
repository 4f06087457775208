//! The device as the transport drives it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use event_manager::SubscriberId;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use super::header::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_MAC,
    F_MRG_RXBUF,
};
use super::offloads::Offloads;
use super::vhost::Vhost;
use super::worker::Worker;
use crate::devices::{
    ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, read_config_from,
};
use crate::event_loop::LoopHandle;

/// receiveq, transmitq (5.1.2).
const QUEUE_SIZES: [u16; 2] = [256; 2];
/// No MTU: whoever sets up the guest's interface sets it. No control queue: the device filters nothing.
const FEATURES: u64 = F_VERSION_1
    | F_EVENT_IDX
    | F_INDIRECT_DESC
    | F_MAC
    | F_MRG_RXBUF
    | F_CSUM
    | F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_HOST_ECN;

/// What the device is made from.
pub struct NetConfig {
    /// A tap: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, a header of 12 bytes (TUNSETVNETHDRSZ), non-blocking, without offloads. The
    /// device owns these.
    pub tap: OwnedFd,
    /// The guest's address on it.
    pub mac: [u8; 6],
    /// /dev/vhost-net, opened for reading and writing and not used yet, if the host's kernel is to carry the frames.
    pub vhost: Option<OwnedFd>,
}

/// What the device and its worker both need.
pub(super) struct Shared {
    pub tap: File,
    /// The tap's.
    pub offloads: Mutex<Offloads>,
    pub vhost: Option<Arc<Vhost>>,
}

/// virtio network device. Between activation and reset a [`Worker`] serves it on the device loop, or has the kernel do
/// so.
pub struct Net {
    shared: Arc<Shared>,
    mac: [u8; 6],
    features: u64,
    device_loop: LoopHandle,
    worker: Option<SubscriberId>,
}

impl Net {
    /// A device that will be served on `device_loop`. Asks `config.vhost` what it can do (see [`super::MAIN_IOCTLS`]);
    /// one that does not answer is left alone, and the device carries the frames itself.
    pub fn new(config: NetConfig, device_loop: LoopHandle) -> Self {
        let vhost = config.vhost.and_then(|fd| match Vhost::new(fd) {
            Ok(vhost) => Some(Arc::new(vhost)),
            Err(err) => {
                log::warn!("net: without vhost: {err}");
                None
            }
        });
        let features = vhost.as_ref().map_or(FEATURES, |vhost| vhost.limit(FEATURES));
        let shared = Arc::new(Shared { tap: File::from(config.tap), offloads: Mutex::default(), vhost });
        Net { shared, mac: config.mac, features, device_loop, worker: None }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// struct virtio_net_config (5.1.4): of its fields, the offered features make only the address valid.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.mac, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(QUEUE_SIZES.len())?;
        self.reset();
        let worker = Worker::new(activation, Arc::clone(&self.shared))?;
        self.worker = Some(self.device_loop.add(Box::new(worker))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(id) = self.worker.take() {
            // Fails when the loop has ended, and the worker with it.
            if let Err(err) = self.device_loop.remove(id) {
                log::debug!("net: {err}");
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.reset();
    }
}
