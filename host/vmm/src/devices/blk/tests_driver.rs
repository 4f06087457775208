//! A driver for the block device: the other side of its queue.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Blk, BlkConfig};
use crate::ThreadStart;
use crate::devices::{Activation, Interrupt, VirtioDevice};
use crate::memory::{self, GuestMemory};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const HEADER: u64 = 0x20_0000;
pub const DATA: u64 = 0x30_0000;
pub const STATUS: u64 = 0x28_0000;
/// What the status is before the device has written one.
pub const NO_STATUS: u8 = 0xaa;
const RINGS: u64 = 0x10_0000;
const SIZE: u16 = 16;

/// A driver: it owns the rings and the other side's eventfds.
pub struct Driver {
    pub blk: Blk,
    pub memory: Arc<GuestMemory>,
    pub kick: EventFd,
    pub interrupt: Arc<Interrupt>,
    features: u64,
    sent: u16,
    table: u64,
    avail: u64,
    used: u64,
}

pub fn config(file: &File, read_only: bool) -> BlkConfig {
    BlkConfig { file: file.try_clone().unwrap(), read_only, block_size: 512, serial: "7:0".into() }
}

impl Driver {
    /// A driver that takes all features but those in `without`.
    pub fn new(config: BlkConfig, without: u64) -> Self {
        let on_start: ThreadStart = Arc::new(|_| ());
        let blk = Blk::new(config, on_start).unwrap();
        let features = blk.features() & !without;
        let memory = memory::allocate(64).unwrap();
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let kick = EventFd::new(blk.kick_flags()).unwrap();
        let mut driver = Driver { blk, memory, kick, interrupt, features, sent: 0, table: 0, avail: 0, used: 0 };
        driver.activate();
        driver
    }

    pub fn activate(&mut self) {
        let mock = MockSplitQueue::create(self.memory.as_ref(), GuestAddress(RINGS), SIZE);
        // Creating the mock also sets the indices to 0, as a driver does.
        (self.sent, self.table, self.avail, self.used) =
            (0, mock.desc_table_addr().0, mock.avail_addr().0, mock.used_addr().0);
        let mut queue: Queue = mock.create_queue().unwrap();
        queue.set_ready(true);
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues: vec![queue],
            kicks: vec![self.kick.try_clone().unwrap()],
            interrupt: Arc::clone(&self.interrupt),
            features: self.features,
        };
        self.blk.activate(activation).unwrap();
    }

    pub fn set_avail_index(&self, index: u16) {
        self.memory.store(index, GuestAddress(self.avail + 2), Ordering::Release).unwrap();
    }

    /// Puts a chain (address, length, flags, next) at the head of the table, kicks, and waits for it to come back: the length
    /// written. `None` when the device wants to be reset instead.
    pub fn send(&mut self, chain: &[(u64, u32, u16, u16)]) -> Option<u32> {
        for (index, (address, length, flags, next)) in chain.iter().enumerate() {
            let raw = RawDescriptor::from(Descriptor::new(*address, *length, *flags, *next));
            self.memory.write_obj(raw, GuestAddress(self.table + 16 * index as u64)).unwrap();
        }
        self.memory.write_obj(NO_STATUS, GuestAddress(STATUS)).unwrap();
        let slot = u64::from(self.sent % SIZE);
        self.memory.write_obj(0u16, GuestAddress(self.avail + 4 + 2 * slot)).unwrap();
        self.sent = self.sent.wrapping_add(1);
        self.set_avail_index(self.sent);
        self.kick.write(1).unwrap();
        self.wait(|driver| {
            let used: u16 = driver.memory.read_obj(GuestAddress(driver.used + 2)).unwrap();
            used == driver.sent || driver.interrupt.needs_reset()
        });
        let [_, length]: [u32; 2] = self.memory.read_obj(GuestAddress(self.used + 4 + 8 * slot)).unwrap();
        (!self.interrupt.needs_reset()).then_some(length)
    }

    pub fn wait(&self, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "the device does not answer");
            std::thread::yield_now();
        }
    }

    pub fn header(&self, kind: u32, sector: u64) {
        self.memory.write_obj([kind, 0, sector as u32, (sector >> 32) as u32], GuestAddress(HEADER)).unwrap();
    }

    pub fn status(&self) -> u8 {
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// One request as Linux makes it: the status, and the length written.
    pub fn request(&mut self, kind: u32, sector: u64, data: u32) -> (u8, u32) {
        self.header(kind, sector);
        // The device writes what is read, and its ID.
        let flags = NEXT | if kind == 0 || kind == 8 { WRITE } else { 0 };
        let header = (HEADER, 16, NEXT, if data == 0 { 2 } else { 1 });
        let length = self.send(&[header, (DATA, data, flags, 2), (STATUS, 1, WRITE, 0)]).expect("an answer");
        (self.status(), length)
    }

    pub fn put(&self, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(DATA)).unwrap();
    }

    pub fn get(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }
}
