//! The device as the transport drives it, and as whoever asks the guest to grow does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::SubscriberId;
use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;
use virtio_queue::DescriptorChain;

use super::blocks::{BLOCK, Blocks, Run};
use super::request::{self, Request, Response, State};
use crate::devices::kicked_queue::{ChainHandler, KickedQueue};
use crate::devices::{
    ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt, VirtioDevice, read_config_from,
};
use crate::event_loop::LoopHandle;
use crate::memory::GuestMemory;
use crate::sys;

/// VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE: the driver keeps off what is not plugged.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// struct virtio_mem_config.
const CONFIG_LEN: usize = 56;

/// Shared by the device, its worker and [`MemControl`].
pub(super) struct Shared {
    blocks: Blocks,
    requested: u64,
    generation: u32,
    /// The driver's, while it has one.
    interrupt: Option<Arc<Interrupt>>,
}

impl Shared {
    /// Of a device whose region is this.
    pub fn new(start: u64, length: u64) -> Arc<Mutex<Self>> {
        let blocks = Blocks::new(start, length);
        Arc::new(Mutex::new(Shared { blocks, requested: 0, generation: 0, interrupt: None }))
    }

    /// See [`MemControl::request`].
    pub fn request(&mut self, bytes: u64) {
        let bytes = (bytes / BLOCK * BLOCK).min(self.blocks.length());
        if bytes <= self.requested {
            return;
        }
        self.requested = bytes;
        self.generation = self.generation.wrapping_add(1);
        if let Some(Err(err)) = self.interrupt.as_ref().map(|interrupt| interrupt.signal_config()) {
            log::error!("mem: cannot tell the guest to grow: {err}");
        }
    }

    /// What the driver reads.
    pub fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let length = self.blocks.length();
        // node_id is not valid without its feature, and all of the region usable from the start.
        let words = [BLOCK, 0, self.blocks.start(), length, length, self.blocks.plugged(), self.requested];
        for (place, word) in config.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        config
    }

    /// Does what the driver asks for. `release` gives a range of memory back to the host.
    pub fn carry_out(&mut self, request: Option<Request>, release: impl FnOnce(u64, u64)) -> Response {
        match request {
            None => Response::Error,
            Some(Request::Plug { address, blocks }) => match self.blocks.run(address, blocks) {
                Some(run) if self.blocks.plugged() + Blocks::bytes(run) > self.requested => Response::Nack,
                Some(run) if self.blocks.state(run) == State::Unplugged => {
                    self.blocks.set(run, true);
                    Response::Ack
                }
                _ => Response::Error,
            },
            Some(Request::Unplug { address, blocks }) => match self.blocks.run(address, blocks) {
                Some(run) if self.blocks.state(run) == State::Plugged => self.unplug(run, release),
                _ => Response::Error,
            },
            Some(Request::UnplugAll) => self.unplug(self.blocks.all(), release),
            Some(Request::State { address, blocks }) => match self.blocks.run(address, blocks) {
                Some(run) => Response::State(self.blocks.state(run)),
                None => Response::Error,
            },
        }
    }

    fn unplug(&mut self, run: Run, release: impl FnOnce(u64, u64)) -> Response {
        self.blocks.set(run, false);
        let (address, length) = self.blocks.range(run);
        release(address, length);
        Response::Ack
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By which the guest is asked to grow.
#[derive(Clone)]
pub struct MemControl(Arc<Mutex<Shared>>);

impl MemControl {
    /// Asks the guest to plug `bytes` in all, rounded down to whole blocks, and never fewer than before.
    pub fn request(&self, bytes: u64) {
        lock(&self.0).request(bytes);
    }

    /// Bytes that were asked for.
    pub fn requested(&self) -> u64 {
        lock(&self.0).requested
    }
}

/// virtio memory device, served on the device loop.
pub struct Mem {
    shared: Arc<Mutex<Shared>>,
    device_loop: LoopHandle,
    subscriber: Option<SubscriberId>,
}

impl Mem {
    /// A device for the region of guest memory that begins at `start`, nothing of which is plugged or asked for.
    pub fn new(start: u64, length: u64, device_loop: LoopHandle) -> (Self, MemControl) {
        let shared = Shared::new(start, length);
        (Mem { shared: Arc::clone(&shared), device_loop, subscriber: None }, MemControl(shared))
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_UNPLUGGED_INACCESSIBLE
    }

    fn config_generation(&self) -> u32 {
        lock(&self.shared).generation
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&lock(&self.shared).config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(1)?;
        self.reset();
        lock(&self.shared).interrupt = Some(Arc::clone(&activation.interrupt));
        if let Some(queue) = KickedQueue::take(&mut activation, 0, Serve(Arc::clone(&self.shared))) {
            self.subscriber = Some(self.device_loop.add(Box::new(queue))?);
        }
        Ok(())
    }

    /// What is plugged stays so (5.15.6.1): the guest goes on running in it.
    fn reset(&mut self) {
        lock(&self.shared).interrupt = None;
        if let Some(id) = self.subscriber.take()
            && let Err(err) = self.device_loop.remove(id)
        {
            log::error!("mem: {err}");
        }
    }
}

pub(super) struct Serve(pub(super) Arc<Mutex<Shared>>);

impl ChainHandler for Serve {
    fn handle(&mut self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
        request::answer(chain, memory, |request| {
            lock(&self.0).carry_out(request, |address, length| sys::give_back(memory, address, length))
        })
    }
}
