//! The device as the transport drives it.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::SubscriberId;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::QueueT;

use super::persist::VsockState;
use super::worker::Worker;
use crate::devices::{
    ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, read_config_from,
};
use crate::event_loop::LoopHandle;

/// rx, tx, event (5.10.2).
const QUEUE_SIZES: [u16; 3] = [256; 3];
const FEATURES: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;

/// What the device is made from.
pub struct VsockConfig {
    /// The guest's context id: 3 to 2^32 - 2 (virtio 1.2, 5.10.4).
    pub guest_cid: u64,
    /// Where clients connect which want to talk to the guest. They write `CONNECT <port>\n` and are answered `OK <host port>\n`, after
    /// which bytes flow, or `ERR <reason>\n` and the end of the stream. The device makes it non-blocking.
    pub listener: UnixListener,
    /// The host port to which the guest connects once it listens; clients are held back until then. Any other port refuses.
    pub ready_port: u32,
    /// Called once, on the device loop, when the guest first connects to `ready_port`. It must not block.
    pub on_ready: Box<dyn Fn() + Send + Sync>,
    /// A host port where a connection is nothing but a message: it is refused.
    pub bell_port: u32,
    /// Called on the device loop whenever the guest connects to `bell_port`, which a hostile one may do without end. It must not block.
    pub on_bell: Box<dyn Fn() + Send + Sync>,
}

/// What the device and its worker both need.
pub(super) struct Shared {
    pub guest_cid: u64,
    pub ready_port: u32,
    pub listener: UnixListener,
    on_ready: Box<dyn Fn() + Send + Sync>,
    pub bell_port: u32,
    pub on_bell: Box<dyn Fn() + Send + Sync>,
    announced: AtomicBool,
    listening: AtomicBool,
}

impl Shared {
    pub fn new(config: VsockConfig) -> Arc<Self> {
        Arc::new(Shared {
            guest_cid: config.guest_cid,
            ready_port: config.ready_port,
            listener: config.listener,
            on_ready: config.on_ready,
            bell_port: config.bell_port,
            on_bell: config.on_bell,
            announced: AtomicBool::new(false),
            listening: AtomicBool::new(false),
        })
    }

    /// Whether the guest listens. The first time that it does, the owner of the device is told.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Release);
        if listening && !self.announced.swap(true, Ordering::AcqRel) {
            (self.on_ready)();
        }
    }
}

/// The vsock device. Between activation and reset a [`Worker`] serves it on the device loop.
pub struct Vsock {
    shared: Arc<Shared>,
    device_loop: LoopHandle,
    features: u64,
    worker: Option<SubscriberId>,
}

impl Vsock {
    /// Makes the device.
    ///
    /// # Errors
    /// InvalidInput when the context id is reserved; otherwise when the listener cannot be made non-blocking.
    pub fn new(config: VsockConfig, device_loop: LoopHandle) -> io::Result<Self> {
        if !(3..u64::from(u32::MAX)).contains(&config.guest_cid) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a reserved vsock context id"));
        }
        config.listener.set_nonblocking(true)?;
        Ok(Vsock { shared: Shared::new(config), device_loop, features: 0, worker: None })
    }

    pub(super) fn state(&self) -> VsockState {
        VsockState {
            guest_cid: self.shared.guest_cid,
            ready_port: self.shared.ready_port,
            features: self.features,
            active: self.worker.is_some(),
            listening: self.shared.listening.load(Ordering::Acquire),
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.shared.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(QUEUE_SIZES.len())?;
        self.reset();
        let features = activation.features & FEATURES;
        for queue in &mut activation.queues {
            queue.set_event_idx(features & F_EVENT_IDX != 0);
        }
        let worker = Worker::new(activation, Arc::clone(&self.shared))?;
        self.worker = Some(self.device_loop.add(Box::new(worker))?);
        self.features = features;
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(id) = self.worker.take() {
            // Fails when the loop has ended, and the worker with it.
            if let Err(err) = self.device_loop.remove(id) {
                log::debug!("vsock: {err}");
            }
        }
        self.features = 0;
        self.shared.listening.store(false, Ordering::Release);
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
    }
}
