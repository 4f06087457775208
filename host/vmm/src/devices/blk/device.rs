//! The block device.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::disk::Disk;
use super::persist::BlkState;
use super::worker::{ActiveQueue, Serving, Worker};
use super::{QUEUE_SIZE, SECTOR};
use crate::ThreadStart;
use crate::devices::{ActivateError, Activation, VirtioDevice, read_config_from};

/// Largest logical block size that Linux takes.
const BLOCK_SIZE_MAX: u32 = 4096;

/// What the device needs.
#[derive(Debug)]
pub struct BlkConfig {
    /// A block device or a regular file, open for reading, and for writing unless `read_only`.
    pub file: File,
    /// The guest may not write.
    pub read_only: bool,
    /// Logical block size: a power of two from 512 to 4096.
    pub block_size: u32,
    /// By which the guest knows the device: at most 20 bytes.
    pub serial: String,
}

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// The block size is not one.
    #[error(
        "block device {serial}: a block size of {size} bytes is not supported: it must be a power of two from 512 to 4096"
    )]
    BlockSize {
        /// Which device.
        serial: String,
        /// Its block size.
        size: u32,
    },
    /// The size of the file cannot be had.
    #[error("block device {serial}: cannot find out how large it is: {reason}")]
    Size {
        /// Which device.
        serial: String,
        /// What the system said.
        reason: io::Error,
    },
    /// The thread could not be started.
    #[error("cannot start a block device's thread: {0}")]
    Worker(#[from] io::Error),
}

/// virtio block device.
pub struct Blk {
    state: BlkState,
    worker: Worker,
    serving: Option<Serving>,
}

impl Blk {
    /// Starts the worker; it sleeps until the driver activates the device. `on_start` runs first on it. The device has the
    /// size that the file has now, whatever becomes of that.
    ///
    /// # Errors
    /// See [`BlkError`].
    pub fn new(mut config: BlkConfig, on_start: ThreadStart) -> Result<Self, BlkError> {
        let (serial, size) = (config.serial, config.block_size);
        if !size.is_power_of_two() || !(SECTOR as u32..=BLOCK_SIZE_MAX).contains(&size) {
            return Err(BlkError::BlockSize { serial, size });
        }
        let length = match config.file.seek(SeekFrom::End(0)) {
            Ok(length) => length,
            Err(reason) => return Err(BlkError::Size { serial, reason }),
        };
        // Whole blocks only.
        let capacity = length / u64::from(size) * (u64::from(size) / SECTOR);
        let state = BlkState { capacity, block_size: size, read_only: config.read_only, serial, activated: false };
        let worker = Worker::start(Disk::new(config.file, state.clone()), on_start)?;
        Ok(Blk { state, worker, serving: None })
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.state.features()
    }

    /// The worker sleeps in read(2).
    fn kick_flags(&self) -> i32 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.state.config_space(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(1)?;
        if let (Some(queue), Some(kick)) = (activation.queues.pop(), activation.kicks.pop()) {
            let write_through = activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
            let Activation { memory, interrupt, .. } = activation;
            self.serving = Some(self.worker.serve(ActiveQueue { queue, kick, memory, interrupt, write_through })?);
            self.state.activated = true;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop();
        }
        self.state.activated = false;
    }
}
