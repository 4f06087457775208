//! The device as the transport drives it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use event_manager::SubscriberId;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use super::control;
use super::header::{
    F_CSUM, F_CTRL_VQ, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6,
    F_MAC, F_MQ, F_MRG_RXBUF,
};
use super::pair::End;
use super::setting::Setting;
use super::vhost::Vhost;
use super::worker::Worker;
use crate::devices::{
    ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, read_config_from,
};
use crate::event_loop::LoopHandle;

/// The most queue pairs of a device. One with more would gain little: all its queues share one interrupt, as virtio-mmio has no other, so
/// that one vCPU at a time takes up what was received; and each pair costs descriptors, buffers and, with vhost, a thread of the kernel's.
pub const MAX_QUEUE_PAIRS: usize = 4;
/// Of receiveqs and transmitqs (5.1.2).
const QUEUE_SIZE: u16 = 256;
/// Without [`F_MQ`] there is one pair, and the control queue comes next.
const FIRST_PAIR: usize = 2;
/// No MTU: whoever sets up the guest's interface sets it.
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
/// Of a device with several pairs. The control queue is there for their number: the device filters nothing.
const FEATURES_OF_SEVERAL: u64 = F_CTRL_VQ | F_MQ;

/// The host's side of one queue pair.
pub struct QueuePair {
    /// A tap: IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, a header of 12 bytes (TUNSETVNETHDRSZ), non-blocking, without offloads. The
    /// device owns these. Where there are several pairs, a queue of its own of one tap with IFF_MULTI_QUEUE, attached: the device
    /// detaches those that the driver does not use.
    pub tap: OwnedFd,
    /// /dev/vhost-net, opened for reading and writing and not used yet, if the host's kernel is to carry the frames.
    pub vhost: Option<OwnedFd>,
}

/// What the device is made from.
pub struct NetConfig {
    /// From 1 to [`MAX_QUEUE_PAIRS`]; those beyond are left out.
    pub pairs: Vec<QueuePair>,
    /// The guest's address on it.
    pub mac: [u8; 6],
}

/// What the device and its worker both need.
pub(super) struct Shared {
    /// Of the pairs.
    pub ends: Vec<Arc<End>>,
    /// TUN_F flags that the tap has, as TUNSETOFFLOAD takes them.
    pub offloads: Mutex<Setting<u32>>,
    /// How many of the tap's queues are attached, from the first on.
    pub attached: Mutex<Setting<usize>>,
}

/// virtio network device. Between activation and reset a [`Worker`] serves it on the device loop, or has the kernel do
/// so.
pub struct Net {
    shared: Arc<Shared>,
    /// struct virtio_net_config (5.1.4), as far as the offered features make its fields valid.
    config: Vec<u8>,
    queue_sizes: Vec<u16>,
    features: u64,
    device_loop: LoopHandle,
    worker: Option<SubscriberId>,
}

impl Net {
    /// A device that will be served on `device_loop`. Asks each vhost what it can do (see [`super::MAIN_IOCTLS`]);
    /// one that does not answer is left alone, and the device carries the frames itself.
    pub fn new(config: NetConfig, device_loop: LoopHandle) -> Self {
        let ends: Vec<Arc<End>> =
            config.pairs.into_iter().take(MAX_QUEUE_PAIRS).map(|pair| Arc::new(end(pair))).collect();
        let several = ends.len() > 1;
        let offered = if several { FEATURES | FEATURES_OF_SEVERAL } else { FEATURES };
        let vhosts = ends.iter().filter_map(|end| end.vhost.as_ref());
        let features = vhosts.fold(offered, |features, vhost| vhost.limit(features));
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * ends.len()];
        let mut space = config.mac.to_vec();
        if several {
            queue_sizes.push(control::QUEUE_SIZE);
            // status, which no feature makes valid; max_virtqueue_pairs.
            space.extend([0; 2]);
            space.extend(u16::try_from(ends.len()).unwrap_or(1).to_le_bytes());
        }
        let attached = Mutex::new(Setting::new(ends.len()));
        let shared = Arc::new(Shared { ends, offloads: Mutex::new(Setting::new(0)), attached });
        Net { shared, config: space, queue_sizes, features, device_loop, worker: None }
    }
}

fn end(pair: QueuePair) -> End {
    let vhost = pair.vhost.and_then(|fd| match Vhost::new(fd) {
        Ok(vhost) => Some(Arc::new(vhost)),
        Err(err) => {
            log::warn!("net: without vhost: {err}");
            None
        }
    });
    End { tap: File::from(pair.tap), vhost }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// 5.1.2: the pairs without F_MQ are one, and the control queue comes behind the pairs.
    fn queues_in_use(&self, features: u64) -> usize {
        if features & F_MQ != 0 { self.queue_sizes.len() } else { FIRST_PAIR + usize::from(features & F_CTRL_VQ != 0) }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(self.queues_in_use(activation.features))?;
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
