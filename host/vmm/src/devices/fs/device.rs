//! The file system device.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, NegotiationMode, PassthroughFs};

use super::TRUSTED_FOR;
use super::persist::{FsState, TAG_MAX};
use super::replay::ReplayUids;
use super::server::FileServer;
use super::worker::{ActiveQueue, Workers};
use super::xattr_names;
use crate::ThreadStart;
use crate::devices::{
    ActivateError, Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, read_config_from,
};

/// Queue 0 carries requests that must not wait behind others (FUSE_FORGET, FUSE_INTERRUPT); queue 1 all others.
const QUEUES: [u16; 2] = [64, 512];
const REQUEST_QUEUES: u32 = 1;
/// Of the files that the guest can hold open, one in so many can be one without a name (O_TMPFILE).
const TMPFILES_SHARE: u64 = 8;

/// What the device needs.
pub struct FsConfig {
    /// The tag that the guest mounts: 1 to 36 bytes.
    pub tag: String,
    /// The directory that is shared.
    pub root: PathBuf,
    /// /proc/self/fd, opened with O_PATH: the shared tree need not contain it.
    pub proc_self_fd: File,
    /// Threads that answer requests, beside the one for queue 0.
    pub workers: usize,
    /// Most files that the guest can hold open or cached; opens beyond it fail with ENFILE.
    pub open_files_max: u64,
    /// What the guest may cache. With [`CachePolicy::Always`] it keeps the pages of a file over open(2), and drops them when it sees
    /// that size or time of change are others (FUSE_AUTO_INVAL_DATA); `Auto` drops them at each open, so that every exec reads its
    /// program anew.
    pub cache: CachePolicy,
    /// The users whose requests are only said to be done, so that the guest's kernel tells its watchers of what the host has changed.
    pub replay: ReplayUids,
}

/// Why the device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The tag is empty or too long.
    #[error("the file system's tag {0:?} is not 1 to 36 bytes long")]
    Tag(String),
    /// The directory cannot be served.
    #[error("cannot share {root:?}: {reason}")]
    Root {
        /// The directory.
        root: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A worker thread could not be started, or its memory not be mapped.
    #[error("cannot start a file system worker: {0}")]
    Worker(#[from] io::Error),
}

/// virtio file system device.
pub struct Fs {
    state: FsState,
    server: Arc<FileServer>,
    workers: Workers,
    active: Vec<Arc<ActiveQueue>>,
}

impl Fs {
    /// Starts the workers; they sleep until the driver activates the device. `on_start` runs first on each.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn new(config: FsConfig, on_start: ThreadStart) -> Result<Self, FsError> {
        if config.tag.is_empty() || config.tag.len() > TAG_MAX {
            return Err(FsError::Tag(config.tag));
        }
        let root = config.root.clone();
        let tmpfiles_max = (config.open_files_max / TMPFILES_SHARE).max(1);
        let files_max = config.open_files_max.saturating_sub(tmpfiles_max);
        let fs = passthrough_config(&config, files_max)
            .and_then(PassthroughFs::new)
            .map_err(|reason| FsError::Root { root, reason })?;
        let tmpfiles_max = usize::try_from(tmpfiles_max).unwrap_or(usize::MAX);
        let server = Arc::new(FileServer::new(fs, config.proc_self_fd, tmpfiles_max, config.replay)?);
        let workers = Workers::start(&server, config.workers.max(1), on_start)?;
        Ok(Fs { state: FsState { tag: config.tag, activated: false }, server, workers, active: Vec::new() })
    }
}

fn passthrough_config(config: &FsConfig, open_files_max: u64) -> io::Result<Config> {
    let trusted_for = if matches!(config.cache, CachePolicy::Never) { Duration::ZERO } else { TRUSTED_FOR };
    Ok(Config {
        root_dir: config.root.to_string_lossy().into_owned(),
        proc_sfd_rawfd: config.proc_self_fd.try_clone().ok(),
        entry_timeout: trusted_for,
        attr_timeout: trusted_for,
        cache_policy: config.cache.clone(),
        // File handles would save descriptors, but open_by_handle_at(2) opens any file of the host's file system: the jail
        // would be none.
        inode_file_handles: InodeFileHandlesMode::Never,
        xattr: true,
        xattrmap: Some(xattr_names::rules()?),
        posix_acl: NegotiationMode::Auto,
        announce_submounts: true,
        allow_direct_io: true,
        allow_mmap: true,
        // Without it the guest asks for security.capability before each write.
        killpriv_v2: true,
        guest_fd_limit: open_files_max,
        ..Config::default()
    })
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC
    }

    /// Workers sleep in read(2); one kick wakes one of them.
    fn kick_flags(&self) -> i32 {
        libc::EFD_SEMAPHORE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_from(&self.state.config_space(REQUEST_QUEUES), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(QUEUES.len())?;
        let Activation { memory, queues, kicks, interrupt, .. } = activation;
        for (index, (queue, kick)) in queues.into_iter().zip(kicks).enumerate() {
            let active = Arc::new(ActiveQueue::new(queue, kick, Arc::clone(&memory), Arc::clone(&interrupt)));
            self.workers.serve(index, &active)?;
            self.active.push(active);
        }
        self.state.activated = true;
        Ok(())
    }

    fn reset(&mut self) {
        for active in self.active.drain(..) {
            active.stop();
        }
        self.server.reset();
        self.state.activated = false;
    }
}
