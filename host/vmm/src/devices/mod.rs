//! virtio devices, a directory each: `device.rs` (the state machine the transport drives), `worker.rs` (what its thread
//! does), `persist.rs` (the state a snapshot keeps), `tests.rs`.
//!
//! ```text
//!            activate(queues moved in)          reset(): worker stopped, queues dropped
//!  created ───────────────────────────▶ activated ──────────────────────────────────▶ created
//! ```
//! A guest that breaks the rules of a queue gets DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2) and its queue is not looked at again
//! until it resets the device: no error loop, no log flood.

pub mod balloon;
pub mod blk;
mod budget;
pub mod console;
pub mod fs;
mod kicked_queue;
mod kicks;
pub mod mem;
pub mod net;
pub mod rng;
#[cfg(test)]
mod tests_random;
mod used;
pub mod vsock;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;

/// VIRTIO_F_VERSION_1: every device offers it, every driver must take it.
pub const F_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// VIRTIO_F_EVENT_IDX: both sides say from which entry on they want to be notified.
pub const F_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

/// Why a device could not be activated.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver set up another number of queues than the device has.
    #[error("the driver set up {got} queues, the device has {expected}")]
    QueueCount {
        /// Queues handed over.
        got: usize,
        /// Queues of the device.
        expected: usize,
    },
    /// A queue is not ready, or its rings are not aligned or not in memory.
    #[error("the driver set up queue {index} wrongly")]
    InvalidQueue {
        /// The queue's index.
        index: usize,
    },
    /// A thread or file descriptor for the worker could not be had.
    #[error("cannot start the device's worker: {0}")]
    Worker(#[from] std::io::Error),
    /// The device loop has ended.
    #[error(transparent)]
    Loop(#[from] crate::event_loop::EventLoopError),
}

/// Why a queue cannot be served any longer.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Ring addresses, indices or a descriptor chain break the rules of virtio 1.2, 2.7.
    #[error("the driver broke the queue: {0}")]
    Broken(String),
    /// An eventfd failed.
    #[error("cannot signal the guest: {0}")]
    Signal(#[from] std::io::Error),
}

impl From<virtio_queue::Error> for QueueError {
    fn from(err: virtio_queue::Error) -> Self {
        QueueError::Broken(err.to_string())
    }
}

/// The device's interrupt line (virtio 1.2, 4.2.2: InterruptStatus and the irqfd behind it), shared by transport and worker.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    /// By how many; see [`Interrupt::set_used_elsewhere`].
    used_elsewhere: AtomicU32,
    irq: EventFd,
}

impl Interrupt {
    /// An interrupt line that is raised through `irq` (an irqfd).
    pub fn new(irq: EventFd) -> Arc<Self> {
        Arc::new(Interrupt {
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            used_elsewhere: AtomicU32::new(0),
            irq,
        })
    }

    /// Tells the driver that used buffers wait.
    ///
    /// # Errors
    /// When the irqfd cannot be written.
    pub fn signal_queue(&self) -> std::io::Result<()> {
        self.signal(virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING)
    }

    /// Tells the driver that the configuration or the device status changed.
    ///
    /// # Errors
    /// When the irqfd cannot be written.
    pub fn signal_config(&self) -> std::io::Result<()> {
        self.signal(virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_CONFIG)
    }

    /// Asks the driver to reset the device; the worker does no more for it until then.
    pub fn set_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        if let Err(err) = self.signal_config() {
            log::error!("cannot signal DEVICE_NEEDS_RESET: {err}");
        }
    }

    /// Whether [`Self::set_needs_reset`] was called since the last [`Self::clear`].
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Says whether the host's kernel uses the buffers and raises the irqfd by itself (vhost). Nothing here sees when it
    /// does, so InterruptStatus always says then that there may be used buffers, and a driver that is interrupted looks at
    /// its queues. It does so for several parts of a device, each of which says it once and takes it back once.
    pub fn set_used_elsewhere(&self, elsewhere: bool) {
        let count = |count: u32| Some(if elsewhere { count.saturating_add(1) } else { count.saturating_sub(1) });
        // Never an error, as there always is a count.
        let _ = self.used_elsewhere.fetch_update(Ordering::AcqRel, Ordering::Acquire, count);
    }

    /// InterruptStatus as the driver reads it.
    pub fn status(&self) -> u32 {
        let elsewhere = self.used_elsewhere.load(Ordering::Acquire) > 0;
        let used = if elsewhere { virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING } else { 0 };
        self.status.load(Ordering::Acquire) | used
    }

    /// The driver acknowledges the bits in `mask`.
    pub fn acknowledge(&self, mask: u32) {
        self.status.fetch_and(!mask, Ordering::AcqRel);
    }

    /// Back to the state after reset.
    pub fn clear(&self) {
        self.status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
        self.used_elsewhere.store(0, Ordering::Release);
    }

    /// The irqfd, to be registered with KVM.
    pub fn irq(&self) -> &EventFd {
        &self.irq
    }

    fn signal(&self, bit: u32) -> std::io::Result<()> {
        self.status.fetch_or(bit, Ordering::AcqRel);
        self.irq.write(1)
    }
}

/// What a device is given when the driver has set it up: the queues move in.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The queues, validated against `memory`, in the device's order.
    pub queues: Vec<Queue>,
    /// One per queue: readable when the driver has kicked it (an ioeventfd with the device's `kick_flags`).
    pub kicks: Vec<EventFd>,
    /// The device's interrupt.
    pub interrupt: Arc<Interrupt>,
    /// The features that the driver accepted; a subset of those offered.
    pub features: u64,
}

impl Activation {
    /// # Errors
    /// When the driver set up another number of queues than the device has.
    pub fn expect_queues(&self, expected: usize) -> Result<(), ActivateError> {
        if self.queues.len() == expected && self.kicks.len() == expected {
            Ok(())
        } else {
            Err(ActivateError::QueueCount { got: self.queues.len(), expected })
        }
    }
}

/// A virtio device as the transport drives it.
pub trait VirtioDevice: Send {
    /// The device's number (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> &[u16];

    /// Feature bits offered, [`F_VERSION_1`] among them.
    fn features(&self) -> u64;

    /// How many of the queues, from the first on, a driver that accepted `features` sets up and the device is given. The others are not
    /// looked at.
    fn queues_in_use(&self, _features: u64) -> usize {
        self.queue_sizes().len()
    }

    /// Flags of the eventfd by which the driver kicks a queue. The device loop wants EFD_NONBLOCK; a pool of threads that sleep on
    /// the same one wants EFD_SEMAPHORE, so that one kick wakes one of them.
    fn kick_flags(&self) -> i32 {
        libc::EFD_NONBLOCK
    }

    /// Changes whenever the configuration space has (4.2.2, ConfigGeneration). Those of most devices never change.
    fn config_generation(&self) -> u32 {
        0
    }

    /// Fills `data` from the device's configuration space at `offset`. Bytes beyond the space stay as they are (zero).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver writes to the configuration space; ignored unless the device says otherwise.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver set DRIVER_OK: start working.
    ///
    /// # Errors
    /// The transport answers an error with DEVICE_NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver reset the device: stop working, forget the queues. Called in any state.
    fn reset(&mut self);
}

/// Copies what overlaps of `config` into `data`: the body of most [`VirtioDevice::read_config`].
pub fn read_config_from(config: &[u8], offset: u64, data: &mut [u8]) {
    let Ok(offset) = usize::try_from(offset) else { return };
    let Some(source) = config.get(offset..) else { return };
    let len = source.len().min(data.len());
    data[..len].copy_from_slice(&source[..len]);
}

/// The next chain that the driver made available, if any.
///
/// # Errors
/// [`QueueError::Broken`] when the ring is not one: serve the queue no more (see the module's text).
pub fn next_chain<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemory,
) -> Result<Option<DescriptorChain<&'m GuestMemory>>, QueueError> {
    if !queue.ready() {
        return Ok(None);
    }
    // `pop_descriptor_chain` would hide a bad index behind a log line at each call.
    Ok(queue.iter(memory)?.next())
}

/// Gives a chain back with `written` bytes in it.
///
/// # Errors
/// [`QueueError::Broken`] when the head or the used ring is not valid.
pub fn complete(queue: &mut Queue, memory: &GuestMemory, head: u16, written: u32) -> Result<(), QueueError> {
    Ok(queue.add_used(memory, head, written)?)
}

/// Interrupts the driver if it asked to be told of the buffers used since the last time.
///
/// # Errors
/// [`QueueError::Broken`] for a ring that is not one, [`QueueError::Signal`] when the irqfd fails.
pub fn notify(queue: &mut Queue, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), QueueError> {
    if queue.needs_notification(memory)? {
        interrupt.signal_queue()?;
    }
    Ok(())
}
