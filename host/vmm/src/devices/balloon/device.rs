//! The device.

use event_manager::SubscriberId;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::DescriptorChain;

use crate::devices::kicked_queue::{ChainHandler, KickedQueue};
use crate::devices::{ActivateError, Activation, F_EVENT_IDX, F_VERSION_1, VirtioDevice, read_config_from};
use crate::event_loop::LoopHandle;
use crate::memory::GuestMemory;
use crate::sys;

/// VIRTIO_BALLOON_F_PAGE_REPORTING.
const F_REPORTING: u64 = 1 << 5;
/// inflateq, deflateq and reporting_vq, which Linux counts without those in between whose features are not offered.
const QUEUE_SIZES: [u16; 3] = [64; 3];
/// Where the last of them is; those before it are there for every driver.
const REPORTING: usize = 2;
/// Ranges of one report that are looked at. Linux reports 32 at once.
const MAX_RANGES: usize = 64;
/// struct virtio_balloon_config without what needs further features: num_pages and actual.
const CONFIG: [u8; 8] = [0; 8];

/// virtio memory balloon, served on the device loop.
pub struct Balloon {
    device_loop: LoopHandle,
    subscribers: Vec<SubscriberId>,
}

impl Balloon {
    /// A device that will be served on `device_loop`.
    pub fn new(device_loop: LoopHandle) -> Self {
        Balloon { device_loop, subscribers: Vec::new() }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_REPORTING
    }

    /// A driver that reports nothing has no queue for it: Linux's, where free pages are to keep their content or be cleared by the guest.
    fn queues_in_use(&self, features: u64) -> usize {
        REPORTING + usize::from(features & F_REPORTING != 0)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&CONFIG, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(self.queues_in_use(activation.features))?;
        self.reset();
        // From the last on, as the others are numbered anew when one is taken.
        if let Some(queue) = KickedQueue::take(&mut activation, REPORTING, Report) {
            self.subscribers.push(self.device_loop.add(Box::new(queue))?);
        }
        for index in [1, 0] {
            if let Some(queue) = KickedQueue::take(&mut activation, index, Ignore) {
                self.subscribers.push(self.device_loop.add(Box::new(queue))?);
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for id in self.subscribers.drain(..) {
            if let Err(err) = self.device_loop.remove(id) {
                log::error!("balloon: {err}");
            }
        }
    }
}

/// Takes what the driver does not use. It may write anything into a report: each range is memory of its own.
pub(super) struct Report;

impl ChainHandler for Report {
    fn handle(&mut self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32 {
        for range in chain.writable().take(MAX_RANGES) {
            sys::give_back(memory, range.addr().0, u64::from(range.len()));
        }
        0
    }
}

/// The balloon's own requests: nothing was asked of the driver.
pub(super) struct Ignore;

impl ChainHandler for Ignore {
    fn handle(&mut self, _chain: DescriptorChain<&GuestMemory>, _memory: &GuestMemory) -> u32 {
        0
    }
}
