//! The entropy device.

use event_manager::SubscriberId;
use virtio_queue::DescriptorChain;

use crate::devices::kicked_queue::{ChainHandler, KickedQueue};
use crate::devices::{ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice};
use crate::event_loop::LoopHandle;
use crate::memory::GuestMemory;

/// Most bytes for one request: a guest that asks for more asks again. Linux asks for 64.
const REQUEST_MAX: usize = 4096;

/// virtio entropy device, filled by getrandom(2).
pub struct Rng {
    device_loop: LoopHandle,
    subscriber: Option<SubscriberId>,
}

impl Rng {
    /// A device that will be served on `device_loop`.
    pub fn new(device_loop: LoopHandle) -> Self {
        Rng { device_loop, subscriber: None }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(1)?;
        let queue = KickedQueue::take(&mut activation, 0, Fill);
        if let Some(queue) = queue {
            self.subscriber = Some(self.device_loop.add(Box::new(queue))?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(id) = self.subscriber.take()
            && let Err(err) = self.device_loop.remove(id)
        {
            log::error!("rng: {err}");
        }
    }
}

pub(super) struct Fill;

impl ChainHandler for Fill {
    fn handle(&mut self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
        let Ok(mut writer) = chain.writer(memory) else { return 0 };
        let mut random = [0; REQUEST_MAX];
        let wanted = writer.available_bytes().min(REQUEST_MAX);
        match rustix::rand::getrandom(&mut random[..wanted], rustix::rand::GetRandomFlags::empty()) {
            Ok(got) => std::io::Write::write(&mut writer, &random[..got]).map_or(0, |written| written as u32),
            Err(err) => {
                log::error!("rng: getrandom failed: {err}");
                0
            }
        }
    }
}
