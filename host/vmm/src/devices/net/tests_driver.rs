//! A driver for the tests, with a socket in the place of the tap: datagrams keep the bounds of frames as a tap does. It
//! kicks only when the device asked for it and sleeps until the device interrupts, so that a lost notification shows as
//! a test that times out.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::header::*;
use super::{Net, NetConfig, QueuePair};
use crate::devices::{Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt, VirtioDevice};
use crate::event_loop::EventLoop;
use crate::memory::GuestMemory;

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not happen to happen.
pub const QUIET: Duration = Duration::from_millis(100);
/// What a driver that merges buffers takes.
pub const MERGING: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_MRG_RXBUF;

pub const RX: usize = 0;
pub const TX: usize = 1;
pub const SIZE: u16 = 256;
pub const MEMORY: usize = 32 << 20;
/// Memory that the driver itself does not use.
pub const FREE: u64 = 30 << 20;

pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// A descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

/// A place of 80 KiB for each descriptor: the frames of tests are at most that long.
fn buffer(head: u16) -> u64 {
    (2 << 20) + u64::from(head) * (80 << 10)
}

#[derive(Default)]
struct Ring {
    base: u64,
    avail: u16,
    used: u16,
    /// Up to where the driver had kicked, or would have.
    kicked: u16,
}

impl Ring {
    fn avail(&self) -> u64 {
        self.base + 0x1000
    }

    fn used(&self) -> u64 {
        self.base + 0x2000
    }
}

pub struct Driver {
    pub memory: Arc<GuestMemory>,
    pub device: Net,
    pub interrupt: Arc<Interrupt>,
    pub features: u64,
    pub kicks: Vec<EventFd>,
    event_loop: Option<EventLoop>,
    /// /proc directory of the loop's thread.
    task: PathBuf,
    rings: Vec<Ring>,
    irq: Epoll,
    next_head: u16,
}

impl Driver {
    /// A driver, the host's end of its tap, and one more descriptor of the device's.
    pub fn new(features: u64) -> (Self, UnixDatagram, UnixDatagram) {
        let (tap, host) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let copy = tap.try_clone().unwrap();
        (Self::around(tap.into(), None, features), host, copy)
    }

    pub fn around(tap: OwnedFd, vhost: Option<OwnedFd>, features: u64) -> Self {
        Self::of_pairs(vec![QueuePair { tap, vhost }], features)
    }

    /// A driver of several pairs, and the host's ends of their taps.
    pub fn with_pairs(count: usize, features: u64) -> (Self, Vec<UnixDatagram>) {
        let ends = (0..count).map(|_| {
            let (tap, host) = UnixDatagram::pair().unwrap();
            tap.set_nonblocking(true).unwrap();
            host.set_read_timeout(Some(PATIENCE)).unwrap();
            (QueuePair { tap: tap.into(), vhost: None }, host)
        });
        let (pairs, hosts) = ends.unzip();
        (Self::of_pairs(pairs, features), hosts)
    }

    pub fn of_pairs(pairs: Vec<QueuePair>, features: u64) -> Self {
        let task = Arc::new(Mutex::new(PathBuf::new()));
        let here = Arc::clone(&task);
        let event_loop = EventLoop::start(Arc::new(move |_| {
            *here.lock().unwrap() = PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self").unwrap());
        }))
        .unwrap();
        let mut driver = Driver {
            memory: Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()),
            device: Net::new(NetConfig { pairs, mac: MAC }, event_loop.handle()),
            interrupt: Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            features,
            kicks: Vec::new(),
            event_loop: Some(event_loop),
            task: PathBuf::new(),
            rings: Vec::new(),
            irq: Epoll::new().unwrap(),
            next_head: 0,
        };
        driver.activate();
        driver.task = task.lock().unwrap().clone();
        driver
    }

    /// Resets the device and sets it up anew.
    pub fn activate(&mut self) {
        self.device.reset();
        self.interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap());
        self.irq = Epoll::new().unwrap();
        let irq = self.interrupt.irq().as_raw_fd();
        self.irq.ctl(ControlOperation::Add, irq, EpollEvent::new(EventSet::IN, 0)).unwrap();
        let mut queues = Vec::new();
        self.rings.clear();
        let in_use = self.device.queues_in_use(self.features);
        for index in 0..in_use {
            let base = 0x10000 * (index as u64 + 1);
            self.memory.write_slice(&[0; 0x4000], GuestAddress(base)).unwrap();
            let ring = Ring { base, ..Ring::default() };
            let mut queue = Queue::new(SIZE).unwrap();
            queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
            queue.try_set_avail_ring_address(GuestAddress(ring.avail())).unwrap();
            queue.try_set_used_ring_address(GuestAddress(ring.used())).unwrap();
            queue.set_event_idx(self.features & F_EVENT_IDX != 0);
            queue.set_ready(true);
            assert!(queue.is_valid(&*self.memory));
            queues.push(queue);
            self.rings.push(ring);
        }
        self.kicks = (0..in_use).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        self.device
            .activate(Activation {
                memory: Arc::clone(&self.memory),
                queues,
                kicks: self.kicks.iter().map(|kick| kick.try_clone().unwrap()).collect(),
                interrupt: Arc::clone(&self.interrupt),
                features: self.features,
            })
            .unwrap();
    }

    pub fn write_desc(&self, table: u64, index: u16, desc: Desc) {
        let at = GuestAddress(table + 16 * u64::from(index));
        let mut bytes = desc.0.to_le_bytes().to_vec();
        bytes.extend(desc.1.to_le_bytes());
        bytes.extend(desc.2.to_le_bytes());
        bytes.extend(desc.3.to_le_bytes());
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Makes `head` available, whatever it is.
    pub fn publish(&mut self, ring: usize, head: u16) {
        let ring = &mut self.rings[ring];
        let slot = ring.avail() + 4 + 2 * u64::from(ring.avail % SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        self.memory.store(ring.avail, GuestAddress(ring.avail() + 2), Ordering::Release).unwrap();
    }

    /// Makes `descs`, linked as they are and written from `head` on, available.
    pub fn put_chain(&mut self, ring: usize, head: u16, descs: &[Desc]) {
        for (index, desc) in (head..).zip(descs) {
            self.write_desc(self.rings[ring].base, index, *desc);
        }
        self.publish(ring, head);
    }

    /// Announces `idx` available entries, and kicks.
    pub fn put_avail_idx(&mut self, ring: usize, idx: u16) {
        self.memory.write_obj(idx, GuestAddress(self.rings[ring].avail() + 2)).unwrap();
        self.force_kick(ring);
    }

    pub fn force_kick(&self, ring: usize) {
        self.kicks[ring].write(1).unwrap();
    }

    /// Kicks if the device asked for it (2.7.10).
    pub fn kick(&mut self, index: usize) {
        fence(Ordering::SeqCst);
        let ring = &mut self.rings[index];
        let wanted = if self.features & F_EVENT_IDX != 0 {
            let event: u16 = self.memory.read_obj(GuestAddress(ring.used() + 4 + 8 * u64::from(SIZE))).unwrap();
            ring.avail.wrapping_sub(event).wrapping_sub(1) < ring.avail.wrapping_sub(ring.kicked)
        } else {
            self.memory.read_obj::<u16>(GuestAddress(ring.used())).unwrap() & 1 == 0
        };
        ring.kicked = ring.avail;
        if wanted {
            self.kicks[index].write(1).unwrap();
        }
    }

    /// Gives the device `count` receive buffers of `len` bytes, as one batch.
    pub fn give(&mut self, count: usize, len: u32) {
        for _ in 0..count {
            let head = self.next_head % SIZE;
            self.next_head = self.next_head.wrapping_add(1);
            self.memory.write_slice(&vec![0xee; len as usize], GuestAddress(buffer(head))).unwrap();
            self.put_chain(RX, head, &[(buffer(head), len, WRITE, 0)]);
        }
        self.kick(RX);
    }

    /// How many chains the device has given back.
    pub fn used_idx(&self, ring: usize) -> u16 {
        self.memory.load(GuestAddress(self.rings[ring].used() + 2), Ordering::Acquire).unwrap()
    }

    /// Takes the next chain that the device has given back, if there is one.
    pub fn take_used(&mut self, ring: usize) -> Option<(u16, u32)> {
        let idx = self.used_idx(ring);
        let ring = &mut self.rings[ring];
        if ring.used == idx {
            return None;
        }
        let slot = GuestAddress(ring.used() + 4 + 8 * u64::from(ring.used % SIZE));
        let [head, len]: [u32; 2] = self.memory.read_obj(slot).unwrap();
        ring.used = ring.used.wrapping_add(1);
        // used_event: tell me of the next one.
        let event = GuestAddress(ring.avail() + 4 + 2 * u64::from(SIZE));
        self.memory.write_obj(ring.used, event).unwrap();
        fence(Ordering::SeqCst);
        Some((head as u16, len))
    }

    /// The next chain that the device gives back, waiting for its interrupt.
    pub fn wait_used_within(&mut self, ring: usize, timeout: Duration) -> Option<(u16, u32)> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(used) = self.take_used(ring) {
                return Some(used);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let mut events = [EpollEvent::default()];
            if self.irq.wait(left.as_millis() as i32 + 1, &mut events).unwrap() > 0 {
                let _ = self.interrupt.irq().read();
                self.interrupt.acknowledge(u32::MAX);
            }
        }
    }

    pub fn wait_used(&mut self, ring: usize) -> (u16, u32) {
        self.wait_used_within(ring, PATIENCE).expect("the device gives nothing back")
    }

    /// The next frame and the number of buffers it came in; all of them must be there at once.
    pub fn receive(&mut self) -> (Vec<u8>, u16) {
        self.receive_within(PATIENCE).expect("no frame from the device")
    }

    pub fn receive_within(&mut self, timeout: Duration) -> Option<(Vec<u8>, u16)> {
        let (head, len) = self.wait_used_within(RX, timeout)?;
        let mut frame = self.read_buffer(head, len);
        // vhost leaves the field as it was for drivers that do not merge.
        let mergeable = self.features & F_MRG_RXBUF != 0;
        let count = if mergeable { u16::from_le_bytes([frame[10], frame[11]]) } else { 1 };
        for _ in 1..count {
            let (head, len) = self.take_used(RX).expect("a part of the frame is missing");
            frame.extend(self.read_buffer(head, len));
        }
        Some((frame, count))
    }

    fn read_buffer(&self, head: u16, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(buffer(head))).unwrap();
        bytes
    }

    /// Sends `frame`, header included, in one descriptor, and waits until the device has given it back.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_by(0, frame);
    }

    /// By the transmitq of a pair.
    pub fn send_by(&mut self, pair: usize, frame: &[u8]) {
        let ring = 2 * pair + TX;
        self.memory.write_slice(frame, GuestAddress(FREE)).unwrap();
        self.put_chain(ring, 0, &[(FREE, frame.len() as u32, 0, 0)]);
        self.kick(ring);
        assert_eq!(self.wait_used(ring), (0, 0));
    }

    /// Gives the receiveq of a pair a buffer of 2,000 bytes, and the frame in it comes, if one does.
    pub fn receive_by(&mut self, pair: usize, timeout: Duration) -> Option<Vec<u8>> {
        let (ring, at) = (2 * pair + RX, FREE + 0x2000 * (pair as u64 + 1));
        self.put_chain(ring, 0, &[(at, 2000, WRITE, 0)]);
        self.kick(ring);
        let (_, len) = self.wait_used_within(ring, timeout)?;
        let mut bytes = vec![0; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        Some(bytes)
    }

    /// Sends a command with room for its answer, which it returns.
    pub fn command(&mut self, command: &[u8]) -> u8 {
        let ring = self.rings.len() - 1;
        self.memory.write_slice(command, GuestAddress(FREE)).unwrap();
        self.memory.write_obj(0xeeu8, GuestAddress(FREE + 0x1000)).unwrap();
        self.put_chain(ring, 0, &[(FREE, command.len() as u32, NEXT, 1), (FREE + 0x1000, 1, WRITE, 0)]);
        self.kick(ring);
        assert_eq!(self.wait_used(ring), (0, 1));
        self.memory.read_obj(GuestAddress(FREE + 0x1000)).unwrap()
    }

    /// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET. Whether it was carried out.
    pub fn use_pairs(&mut self, count: u16) -> bool {
        let [low, high] = count.to_le_bytes();
        match self.command(&[4, 0, low, high]) {
            0 => true,
            1 => false,
            other => panic!("answer {other}"),
        }
    }

    pub fn wait_needs_reset(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.interrupt.needs_reset() {
            assert!(Instant::now() < deadline, "the device does not ask for a reset");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asserts that the loop's thread sleeps.
    pub fn expect_idle(&self) {
        let spent = || {
            let text = std::fs::read_to_string(self.task.join("schedstat")).unwrap();
            Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
        };
        std::thread::sleep(QUIET);
        let before = spent();
        std::thread::sleep(Duration::from_millis(200));
        let busy = spent() - before;
        assert!(busy < Duration::from_millis(40), "the loop was busy for {busy:?} of 200 ms");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.device.reset();
        drop(self.event_loop.take());
    }
}

/// A frame of `len` bytes, header included, of which no two parts are alike. The header is all zero but for `flags` and
/// `gso_type`.
pub fn frame_with(len: usize, flags: u8, gso_type: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at ^ (at >> 8) ^ (len >> 3)) as u8).collect();
    frame[..HEADER_LEN].fill(0);
    frame[..2].copy_from_slice(&[flags, gso_type]);
    frame
}

pub fn frame(len: usize) -> Vec<u8> {
    frame_with(len, 0, 0)
}

/// As the guest sees it.
pub fn in_buffers(mut frame: Vec<u8>, count: u16) -> (Vec<u8>, u16) {
    frame[10..12].copy_from_slice(&count.to_le_bytes());
    (frame, count)
}
