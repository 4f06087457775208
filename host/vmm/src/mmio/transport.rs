//! The register window of one device (virtio 1.2, 4.2.2) and the driver's steps through the device status (3.1.1).

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
};
use virtio_bindings::virtio_mmio as reg;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::MmioState;
use crate::devices::{ActivateError, Activation, F_EVENT_IDX, F_VERSION_1, Interrupt, VirtioDevice};
use crate::memory::GuestMemory;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
pub(super) const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"SBOX");
/// Queue selectors without a queue read as this size: the queue does not exist.
const NO_QUEUE: u32 = 0;
/// Shared memory regions that do not exist have this length (4.2.2, SHMLenLow).
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// Why a device cannot be put behind a window.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// eventfd(2) failed.
    #[error("cannot make an eventfd for a device: {0}")]
    EventFd(#[from] std::io::Error),
    /// The device asks for a queue size that virtio does not allow.
    #[error("a device has a queue of invalid size: {0}")]
    Queue(String),
}

/// One device behind its registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    kicks: Vec<EventFd>,
    queues: Vec<Queue>,
    state: MmioState,
}

impl MmioTransport {
    /// Puts `device` behind a window.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(device: Box<dyn VirtioDevice>, memory: Arc<GuestMemory>) -> Result<Self, TransportError> {
        let flags = device.kick_flags();
        let kicks = device.queue_sizes().iter().map(|_| EventFd::new(flags)).collect::<Result<_, _>>()?;
        let queues = new_queues(device.as_ref())?;
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK)?);
        Ok(MmioTransport { device, memory, interrupt, kicks, queues, state: MmioState::default() })
    }

    /// The eventfd of each queue, to be registered as ioeventfd at [`Self::QUEUE_NOTIFY`] with the queue's index as data.
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// The irqfd.
    pub fn irq(&self) -> &EventFd {
        self.interrupt.irq()
    }

    /// The device's interrupt.
    #[cfg(test)]
    pub(super) fn interrupt(&self) -> Arc<Interrupt> {
        Arc::clone(&self.interrupt)
    }

    /// Offset of the register that a driver writes a queue's index to.
    pub const QUEUE_NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

    /// The driver reads `data.len()` bytes at `offset`. Registers are read four bytes at a time; other accesses to them read zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            self.device.read_config(offset, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset as u32).to_le_bytes());
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => match self.state.device_features_select {
                0 => self.device.features() as u32,
                1 => (self.device.features() >> 32) as u32,
                _ => 0,
            },
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.queue().map_or(NO_QUEUE, |queue| u32::from(queue.max_size())),
            reg::VIRTIO_MMIO_QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.ready())),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            reg::VIRTIO_MMIO_STATUS => self.state.status | if self.interrupt.needs_reset() { NEEDS_RESET } else { 0 },
            reg::VIRTIO_MMIO_SHM_LEN_LOW | reg::VIRTIO_MMIO_SHM_LEN_HIGH => NO_SHARED_MEMORY,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.device.config_generation(),
            _ => 0,
        }
    }

    /// The driver writes. What the current status does not allow is ignored.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            self.device.write_config(offset, data);
        } else if let Ok(bytes) = <[u8; 4]>::try_from(data) {
            self.write_register(offset as u32, u32::from_le_bytes(bytes));
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.state.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.state.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => self.state.queue_select = value,
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.write_queue_register(offset, value),
        }
    }

    /// Queues can be changed once the features are agreed on and until the driver is ready (3.1.1, steps 6 to 8).
    fn write_queue_register(&mut self, offset: u32, value: u32) {
        if self.state.status & (FEATURES_OK | DRIVER_OK | FAILED) != FEATURES_OK {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.state.queue_select as usize) else { return };
        if queue.ready() && offset != reg::VIRTIO_MMIO_QUEUE_READY {
            return;
        }
        match offset {
            // A size that is no power of two or too large is ignored by the setter.
            reg::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn accept_features(&mut self, value: u32) {
        if self.state.status & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        match self.state.driver_features_select {
            0 => self.state.driver_features = self.state.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.state.driver_features = self.state.driver_features & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// 3.1.1: each step sets one more bit, in order; 0 resets; FAILED can come at any time.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & !self.state.status;
        let allowed = match added {
            FAILED => true,
            ACKNOWLEDGE => self.state.status == 0,
            DRIVER => self.state.status == ACKNOWLEDGE,
            FEATURES_OK => self.state.status == ACKNOWLEDGE | DRIVER && self.features_are_acceptable(),
            DRIVER_OK => self.state.status == ACKNOWLEDGE | DRIVER | FEATURES_OK,
            _ => false,
        };
        if !allowed {
            return;
        }
        self.state.status |= added;
        if added == DRIVER_OK {
            self.activate();
        }
    }

    fn features_are_acceptable(&self) -> bool {
        self.state.driver_features & !self.device.features() == 0 && self.state.driver_features & F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        if let Err(err) = self.try_activate() {
            log::error!("virtio device {}: {err}", self.device.device_type());
            self.interrupt.set_needs_reset();
        }
    }

    fn try_activate(&mut self) -> Result<(), ActivateError> {
        let event_idx = self.state.driver_features & F_EVENT_IDX != 0;
        let in_use = self.device.queues_in_use(self.state.driver_features);
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, queue) in self.queues.iter_mut().take(in_use).enumerate() {
            queue.set_event_idx(event_idx);
            if !queue.is_valid(self.memory.as_ref()) {
                return Err(ActivateError::InvalidQueue { index });
            }
            queues.push(std::mem::replace(queue, Queue::new(queue.max_size()).map_err(invalid_queue(index))?));
        }
        let kicks = self.kicks.iter().take(in_use).map(EventFd::try_clone).collect::<Result<_, _>>()?;
        self.state.activated = true;
        self.device.activate(Activation {
            memory: Arc::clone(&self.memory),
            queues,
            kicks,
            interrupt: Arc::clone(&self.interrupt),
            features: self.state.driver_features,
        })
    }

    /// What the driver does by writing 0 to the status: the device stops and forgets its queues.
    pub fn reset(&mut self) {
        if self.state.activated {
            self.device.reset();
        }
        self.interrupt.clear();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.state = MmioState::default();
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.state.queue_select as usize)
    }
}

fn new_queues(device: &dyn VirtioDevice) -> Result<Vec<Queue>, TransportError> {
    device
        .queue_sizes()
        .iter()
        .map(|size| Queue::new(*size).map_err(|e| TransportError::Queue(e.to_string())))
        .collect()
}

fn invalid_queue(index: usize) -> impl Fn(virtio_queue::Error) -> ActivateError {
    move |_| ActivateError::InvalidQueue { index }
}
