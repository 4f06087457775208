//! The console device.

use std::io::Read;

use event_manager::SubscriberId;
use virtio_queue::DescriptorChain;

use crate::console_log::ConsoleLog;
use crate::devices::kicked_queue::{ChainHandler, KickedQueue};
use crate::devices::{ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice};
use crate::event_loop::LoopHandle;
use crate::memory::GuestMemory;

/// Queue 0 would carry input to the guest; its buffers stay unused.
const TRANSMIT: usize = 1;
/// Most bytes read of one chain; the kernel writes lines and at most a page.
const WRITE_MAX: usize = 4096;

/// virtio console whose output goes to a [`ConsoleLog`].
pub struct Console {
    log: ConsoleLog,
    device_loop: LoopHandle,
    subscriber: Option<SubscriberId>,
}

impl Console {
    /// A device that will be served on `device_loop`.
    pub fn new(log: ConsoleLog, device_loop: LoopHandle) -> Self {
        Console { log, device_loop, subscriber: None }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 64]
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(2)?;
        let queue = KickedQueue::take(&mut activation, TRANSMIT, Record { log: self.log.clone() });
        if let Some(queue) = queue {
            self.subscriber = Some(self.device_loop.add(Box::new(queue))?);
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(id) = self.subscriber.take()
            && let Err(err) = self.device_loop.remove(id)
        {
            log::error!("console: {err}");
        }
    }
}

pub(super) struct Record {
    pub(super) log: ConsoleLog,
}

impl ChainHandler for Record {
    fn handle(&mut self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
        let Ok(mut reader) = chain.reader(memory) else { return 0 };
        let mut data = [0; WRITE_MAX];
        if let Ok(read) = reader.read(&mut data) {
            self.log.push(&data[..read]);
        }
        0
    }
}
