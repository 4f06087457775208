//! What a snapshot keeps of the block device.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};

use super::{QUEUE_SIZE, SECTOR};
use crate::devices::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

/// Most data segments of a request: the queue's descriptors less those of header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most stretches that one discard or write-zeroes request names.
pub(super) const RANGES_MAX: usize = 16;
/// Most sectors of each such stretch: the host may have to write the zeroes, and nothing else is served meanwhile.
pub(super) const RANGE_SECTORS_MAX: u32 = 1 << 17;
/// Length of struct virtio_blk_config as far as its write-zeroes fields.
const CONFIG_LEN: usize = 60;

/// State of the device apart from its queue (the transport's), its thread and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkState {
    /// Size in sectors of 512 bytes.
    pub capacity: u64,
    /// Logical block size: a power of two from 512 up.
    pub block_size: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// What the device answers when it is asked for its ID: at most 20 bytes count.
    pub serial: String,
    /// The driver has activated the device.
    pub activated: bool,
}

impl BlkState {
    /// What the device offers (5.2.3).
    pub fn features(&self) -> u64 {
        let writing = if self.read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | always | writing
    }

    /// struct virtio_blk_config (5.2.4). What belongs to features that are not offered is zero.
    pub fn config_space(&self) -> [u8; CONFIG_LEN] {
        let alignment = self.block_size / SECTOR as u32;
        let ranges = if self.read_only { 0 } else { RANGES_MAX as u32 };
        let sectors = if self.read_only { 0 } else { RANGE_SECTORS_MAX };
        let mut config = [0; CONFIG_LEN];
        let fields: [(usize, &[u8]); 9] = [
            (0, &self.capacity.to_le_bytes()),
            (12, &SEG_MAX.to_le_bytes()),
            (20, &self.block_size.to_le_bytes()),
            (36, &sectors.to_le_bytes()), // max_discard_sectors
            (40, &ranges.to_le_bytes()),
            (44, &alignment.to_le_bytes()),
            (48, &sectors.to_le_bytes()), // max_write_zeroes_sectors
            (52, &ranges.to_le_bytes()),
            (56, &[u8::from(!self.read_only)]), // write_zeroes_may_unmap
        ];
        for (offset, bytes) in fields {
            config[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        config
    }

    /// The serial as it is answered, padded with NULs.
    pub fn id(&self) -> [u8; VIRTIO_BLK_ID_BYTES as usize] {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        id.iter_mut().zip(self.serial.as_bytes()).for_each(|(to, from)| *to = *from);
        id
    }
}
