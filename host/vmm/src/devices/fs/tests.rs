//! The file system device against a driver's requests, good and bad, on mock guest memory and a real directory.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
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

use super::*;
use crate::ThreadStart;
use crate::devices::{Activation, Interrupt, VirtioDevice, F_VERSION_1};
use crate::memory::{self, GuestMemory};

const REQUEST: u64 = 0x20_0000;
const ANSWER: u64 = 0x30_0000;
const ANSWER_LEN: u32 = 8192;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const RINGS: [u64; 2] = [0x10_0000, 0x18_0000];
const QUEUE_SIZE: u16 = 16;

/// A driver: it owns the rings of both queues and the other side's eventfds.
struct Driver {
    fs: Fs,
    memory: Arc<GuestMemory>,
    kicks: Vec<EventFd>,
    interrupt: Arc<Interrupt>,
    sent: [u16; 2],
    rings: Vec<Rings>,
}

/// Guest addresses of a queue's parts.
struct Rings {
    table: u64,
    avail: u64,
    used: u64,
}

fn device(root: &Path) -> Fs {
    let config = FsConfig {
        tag: "test".into(),
        root: root.to_owned(),
        proc_self_fd: File::open("/proc/self/fd").unwrap(),
        workers: 3,
        open_files_max: 100,
    };
    let on_start: ThreadStart = Arc::new(|_| ());
    Fs::new(config, on_start).unwrap()
}

impl Driver {
    fn new(root: &Path) -> Self {
        let memory = memory::allocate(64).unwrap();
        let kicks = (0..2).map(|_| EventFd::new(libc::EFD_SEMAPHORE).unwrap()).collect();
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let mut driver = Driver { fs: device(root), memory, kicks, interrupt, sent: [0; 2], rings: Vec::new() };
        driver.activate();
        driver
    }

    fn activate(&mut self) {
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

    fn avail_index(&self, queue: usize) -> GuestAddress {
        GuestAddress(self.rings[queue].avail + 2)
    }

    fn used_index(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(self.rings[queue].used + 2)).unwrap()
    }

    /// Puts a chain at the head of the descriptor table, kicks, and waits for it to come back: (id, length written).
    fn send(&mut self, queue: usize, chain: &[(u64, u32, u16, u16)]) -> Option<(u32, u32)> {
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

    /// One FUSE request with room for an answer; returns the error and the answer's body.
    fn request(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let len = size_of::<InHeader>() + body.len();
        let header = InHeader { len: len as u32, opcode, unique: 7, nodeid: node, ..Default::default() };
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

    fn init(&mut self) {
        // struct fuse_init_in: major, minor, max_readahead, flags, flags2, unused
        let mut init = [0u8; 64];
        init[..4].copy_from_slice(&7u32.to_le_bytes());
        init[4..8].copy_from_slice(&38u32.to_le_bytes());
        let (error, body) = self.request(Opcode::Init as u32, 0, &init);
        assert_eq!(error, 0);
        let out = InitOut::from_slice(&body[..size_of::<InitOut>()]).unwrap();
        assert_eq!(out.major, 7);
    }

    fn lookup(&mut self, name: &str) -> Result<u64, i32> {
        let (error, body) = self.request(Opcode::Lookup as u32, 1, &[name.as_bytes(), b"\0"].concat());
        if error != 0 {
            return Err(error);
        }
        let mut entry = EntryOut::default();
        entry.as_mut_slice().copy_from_slice(&body[..size_of::<EntryOut>()]);
        Ok(entry.attr.ino)
    }

    /// A good request works: the device is alive.
    fn assert_alive(&mut self, root: &Path) {
        let ino = std::fs::metadata(root.join("file")).unwrap().ino();
        assert_eq!(self.lookup("file"), Ok(ino));
    }
}

fn shared_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    dir
}

#[test]
fn answers_requests_of_both_queues() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    driver.assert_alive(dir.path());
    assert_eq!(driver.lookup("missing"), Err(-libc::ENOENT));
    let forget = InHeader { len: 48, opcode: Opcode::Forget as u32, nodeid: 2, ..Default::default() };
    driver.memory.write_obj(forget, GuestAddress(REQUEST)).unwrap();
    driver.memory.write_obj(1u64, GuestAddress(REQUEST + 40)).unwrap();
    assert_eq!(driver.send(0, &[(REQUEST, 48, 0, 0)]), Some((0, 0)));
}

#[test]
fn names_cannot_leave_the_shared_directory() {
    let dir = shared_directory();
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    let mut driver = Driver::new(dir.path());
    driver.init();
    for name in ["..", "../..", "/etc/passwd", "link/passwd"] {
        let result = driver.lookup(name);
        let root = std::fs::metadata(dir.path()).unwrap().ino();
        assert!(result.is_err() || result == Ok(root), "{name}: {result:?}");
    }
}

#[test]
fn serves_again_after_a_reset() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    for _ in 0..3 {
        driver.init();
        driver.assert_alive(dir.path());
        driver.fs.reset();
        driver.interrupt.clear();
        driver.activate();
    }
}

#[test]
fn malformed_chains_are_given_back_and_the_device_goes_on() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    let chains: [&[(u64, u32, u16, u16)]; 10] = [
        &[(REQUEST, 0, 0, 0)],                                        // empty
        &[(REQUEST, 39, NEXT, 1), (ANSWER, ANSWER_LEN, WRITE, 0)],    // header cut short
        &[(ANSWER, ANSWER_LEN, WRITE, 0)],                            // nothing to read
        &[(REQUEST, 4096, 0, 0)],                                     // no room for an answer
        &[(REQUEST, 4096, NEXT, 1), (ANSWER, 15, WRITE, 0)],          // too little room
        &[(64 << 20, 64, NEXT, 1), (ANSWER, ANSWER_LEN, WRITE, 0)],   // outside memory
        &[(u64::MAX - 3, u32::MAX, NEXT, 1), (ANSWER, 64, WRITE, 0)], // overflows
        &[(REQUEST, 64, NEXT, 0)],                                    // points to itself
        &[(REQUEST, 64, NEXT, 9999)],                                 // points out of the table
        &[(REQUEST, u32::MAX, 0x4, 0)],                               // indirect table of odd size
    ];
    for opcode in [Opcode::Read as u32, Opcode::Readdir as u32, Opcode::Lookup as u32, 0, u32::MAX] {
        for chain in chains {
            let header = InHeader { len: 4096, opcode, nodeid: 1, ..Default::default() };
            driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
            assert!(driver.send(1, chain).is_some(), "opcode {opcode}, chain {chain:x?}");
        }
    }
    driver.assert_alive(dir.path());
}

#[test]
fn a_broken_ring_stops_the_queue_until_reset() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    driver.memory.store(driver.sent[1] + 1000, driver.avail_index(1), Ordering::Release).unwrap();
    driver.kicks[1].write(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !driver.interrupt.needs_reset() {
        assert!(Instant::now() < deadline, "DEVICE_NEEDS_RESET");
        std::thread::yield_now();
    }
    driver.fs.reset();
    driver.interrupt.clear();
    driver.activate();
    driver.init();
    driver.assert_alive(dir.path());
}

#[test]
fn random_requests_are_survived() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let mut body = vec![0; random() as usize % 256];
        body.iter_mut().for_each(|byte| *byte = if random() % 3 == 0 { random() as u8 } else { 0 });
        let opcode = random() as u32 % 54;
        let node = random() % 4;
        let claimed = if random() % 4 == 0 { random() as u32 } else { (40 + body.len()) as u32 };
        let header = InHeader { len: claimed, opcode, unique: 1, nodeid: node, ..Default::default() };
        driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
        driver.memory.write_slice(&body, GuestAddress(REQUEST + 40)).unwrap();
        let answer = random() as u32 % 4096;
        let chain = [(REQUEST, 40 + body.len() as u32, NEXT, 1), (ANSWER, answer, WRITE, 0)];
        assert!(driver.send(1, &chain).is_some(), "opcode {opcode} node {node} length {claimed} body {body:?}");
    }
    driver.init();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    driver.assert_alive(dir.path());
}

#[test]
fn tags_that_do_not_fit_are_refused() {
    let dir = shared_directory();
    for tag in [String::new(), "x".repeat(37)] {
        let config = FsConfig {
            tag,
            root: dir.path().to_owned(),
            proc_self_fd: File::open("/proc/self/fd").unwrap(),
            workers: 1,
            open_files_max: 10,
        };
        let on_start: ThreadStart = Arc::new(|_| ());
        assert!(matches!(Fs::new(config, on_start), Err(FsError::Tag(_))));
    }
}

#[test]
fn configuration_space_holds_tag_and_queue_count() {
    let dir = shared_directory();
    let fs = device(dir.path());
    let mut tag = [0xff; 36];
    fs.read_config(0, &mut tag);
    assert_eq!(&tag[..5], b"test\0");
    let mut queues = [0; 4];
    fs.read_config(36, &mut queues);
    assert_eq!(u32::from_le_bytes(queues), 1);
}
