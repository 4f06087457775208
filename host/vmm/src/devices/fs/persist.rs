//! What a snapshot keeps of the file system device.

/// State of the device apart from its queues (the transport's) and from the open files of `PassthroughFs`: snapshots are taken
/// before the first mount, when there are none (docs/architecture.md, decision 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsState {
    /// The tag by which the guest mounts the file system: 1 to 36 bytes.
    pub tag: String,
    /// The driver has activated the device.
    pub activated: bool,
}

/// Length of the tag in the configuration space.
pub const TAG_MAX: usize = 36;

impl FsState {
    /// struct virtio_fs_config (5.11.4): the tag, padded with NULs, and the number of request queues.
    pub fn config_space(&self, request_queues: u32) -> [u8; TAG_MAX + 4] {
        let mut config = [0; TAG_MAX + 4];
        let tag = &self.tag.as_bytes()[..self.tag.len().min(TAG_MAX)];
        config[..tag.len()].copy_from_slice(tag);
        config[TAG_MAX..].copy_from_slice(&request_queues.to_le_bytes());
        config
    }
}
