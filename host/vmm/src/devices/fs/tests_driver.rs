//! A driver for the file system device: the other side of its queues.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use virtiofsd::fuse::{EntryOut, InHeader, InitOut, Opcode, OutHeader};
use vm_memory::{ByteValued, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{CachePolicy, Fs, FsConfig, ReplayUids};
use crate::ThreadStart;
use crate::devices::{Activation, F_VERSION_1, Interrupt, VirtioDevice};
use crate::memory::{self, GuestMemory};

pub const REQUEST: u64 = 0x20_0000;
pub const ANSWER: u64 = 0x30_0000;
pub const ANSWER_LEN: u32 = 8192;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
const RINGS: [u64; 2] = [0x10_0000, 0x18_0000];
const QUEUE_SIZE: u16 = 16;

/// A driver: it owns the rings of both queues and the other side's eventfds.
pub struct Driver {
    pub fs: Fs,
    pub memory: Arc<GuestMemory>,
    pub kicks: Vec<EventFd>,
    pub interrupt: Arc<Interrupt>,
    pub sent: [u16; 2],
    rings: Vec<Rings>,
}

/// Guest addresses of a queue's parts.
struct Rings {
    table: u64,
    avail: u64,
    used: u64,
}

pub fn device(root: &Path) -> Fs {
    let config = FsConfig {
        tag: "test".into(),
        root: root.to_owned(),
        // As the jail has it.
        proc_self_fd: OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/fd").unwrap(),
        workers: 3,
        open_files_max: 100,
        cache: CachePolicy::Always,
        replay: ReplayUids { touch: 90, make: 91, drop: 92, file: 93, directory: 94 },
    };
    let on_start: ThreadStart = Arc::new(|_| ());
    Fs::new(config, on_start).unwrap()
}

impl Driver {
    pub fn new(root: &Path) -> Self {
        let memory = memory::allocate(64).unwrap();
        let kicks = (0..2).map(|_| EventFd::new(libc::EFD_SEMAPHORE).unwrap()).collect();
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let mut driver = Driver { fs: device(root), memory, kicks, interrupt, sent: [0; 2], rings: Vec::new() };
        driver.activate();
        driver
    }

    pub fn activate(&mut self) {
        self.sent = [0; 2];
        let mut rings = Vec::new();
        let queues = RINGS
            .iter()
            .map(|ring| {
                let mock = MockSplitQueue::create(self.memory.as_ref(), GuestAddress(*ring), QUEUE_SIZE);
                // Creating the mock also sets the indices to 0, as a driver does.
                rings.push(Rings {
                    table: mock.desc_table_addr().0,
                    avail: mock.avail_addr().0,
                    used: mock.used_addr().0,
                });
                let mut queue: Queue = mock.create_queue().unwrap();
                queue.set_ready(true);
                queue
            })
            .collect();
        self.rings = rings;
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            kicks: self.kicks.iter().map(|kick| kick.try_clone().unwrap()).collect(),
            interrupt: Arc::clone(&self.interrupt),
            features: F_VERSION_1,
        };
        self.fs.activate(activation).unwrap();
    }

    pub fn avail_index(&self, queue: usize) -> GuestAddress {
        GuestAddress(self.rings[queue].avail + 2)
    }

    pub fn used_index(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(self.rings[queue].used + 2)).unwrap()
    }

    /// Puts a chain at the head of the descriptor table, kicks, and waits for it to come back: (id, length written).
    pub fn send(&mut self, queue: usize, chain: &[(u64, u32, u16, u16)]) -> Option<(u32, u32)> {
        let &Rings { table, avail, used } = &self.rings[queue];
        for (index, (address, length, flags, next)) in chain.iter().enumerate() {
            let raw = RawDescriptor::from(Descriptor::new(*address, *length, *flags, *next));
            self.memory.write_obj(raw, GuestAddress(table + 16 * index as u64)).unwrap();
        }
        let slot = u64::from(self.sent[queue] % QUEUE_SIZE);
        let sent = self.sent[queue].wrapping_add(1);
        self.memory.write_obj(0u16, GuestAddress(avail + 4 + 2 * slot)).unwrap();
        self.memory.store(sent, self.avail_index(queue), Ordering::Release).unwrap();
        self.sent[queue] = sent;
        self.kicks[queue].write(1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.used_index(queue) != sent {
            if self.interrupt.needs_reset() || Instant::now() > deadline {
                return None;
            }
            std::thread::yield_now();
        }
        let [id, length]: [u32; 2] = self.memory.read_obj(GuestAddress(used + 4 + 8 * slot)).unwrap();
        Some((id, length))
    }

    /// One FUSE request of root's with room for an answer; returns the error and the answer's body.
    pub fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        self.request_as(0, opcode, node, body)
    }

    /// One FUSE request by the user and group `id`.
    pub fn request_as(&mut self, id: u32, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let len = size_of::<InHeader>() + body.len();
        let (uid, gid) = (id.into(), id.into());
        let header = InHeader { len: len as u32, opcode, unique: 7, nodeid: node, uid, gid, ..Default::default() };
        self.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
        self.memory.write_slice(body, GuestAddress(REQUEST + size_of::<InHeader>() as u64)).unwrap();
        let chain = [(REQUEST, len as u32, NEXT, 1), (ANSWER, ANSWER_LEN, WRITE, 0)];
        let (_, written) = self.send(1, &chain).expect("an answer");
        let out: OutHeader = self.memory.read_obj(GuestAddress(ANSWER)).unwrap();
        assert_eq!(out.unique, 7);
        assert_eq!(out.len, written);
        let mut body = vec![0; written as usize - size_of::<OutHeader>()];
        self.memory.read_slice(&mut body, GuestAddress(ANSWER + size_of::<OutHeader>() as u64)).unwrap();
        (out.error, body)
    }

    pub fn init(&mut self) {
        self.init_with(0);
    }

    /// FUSE_INIT with what the guest can do: flags in the low half, flags2 in the high one.
    pub fn init_with(&mut self, flags: u64) {
        // struct fuse_init_in: major, minor, max_readahead, flags, flags2, unused
        let mut init = [0u8; 64];
        init[12..20].copy_from_slice(&flags.to_le_bytes());
        init[..4].copy_from_slice(&7u32.to_le_bytes());
        init[4..8].copy_from_slice(&38u32.to_le_bytes());
        let (error, body) = self.request(Opcode::Init as u32, 0, &init);
        assert_eq!(error, 0);
        let out = InitOut::from_slice(&body[..size_of::<InitOut>()]).unwrap();
        assert_eq!(out.major, 7);
    }

    /// The host's inode number of a name in the root.
    pub fn lookup(&mut self, name: &str) -> Result<u64, i32> {
        self.entry(name).map(|entry| entry.attr.ino)
    }

    /// What there is to know of a name in the root.
    pub fn entry(&mut self, name: &str) -> Result<EntryOut, i32> {
        let (error, body) = self.request(Opcode::Lookup as u32, 1, &[name.as_bytes(), b"\0"].concat());
        if error != 0 {
            return Err(error);
        }
        let mut entry = EntryOut::default();
        entry.as_mut_slice().copy_from_slice(&body[..size_of::<EntryOut>()]);
        Ok(entry)
    }

    /// A good request works: the device is alive.
    pub fn assert_alive(&mut self, root: &Path) {
        let ino = std::fs::metadata(root.join("file")).unwrap().ino();
        assert_eq!(self.lookup("file"), Ok(ino));
    }
}

pub fn shared_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    dir
}
