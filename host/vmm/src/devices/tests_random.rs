//! Guests that write any register in any order and anything into their rings, and kick at any time: no device comes to harm by one, and
//! the next driver that keeps the rules is served.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};

use super::VirtioDevice;
use super::balloon::Balloon;
use super::blk::{Blk, BlkConfig};
use super::console::Console;
use super::fs::{CachePolicy, Fs, FsConfig, ReplayUids};
use super::mem::Mem;
use super::net::{Net, NetConfig, QueuePair};
use super::rng::Rng;
use super::vsock::{Random, Vsock, VsockConfig};
use crate::console_log::ConsoleLog;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::memory::{self, GuestMemory};
use crate::mmio::MmioTransport;

/// What a hostile guest does before the next driver comes.
const STEPS: usize = 20_000;
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);
const SIZE: u16 = 16;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x200_0000;
const ANSWER: u64 = 0x210_0000;
const READY: u32 = 15;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// A multiple of the block of the memory device.
const GROWTH: u64 = 128 << 20;

fn ring(queue: usize) -> u64 {
    0x10_0000 + queue as u64 * 0x1_0000
}

/// A request that a device gives back to whoever sends it.
struct Request<'a> {
    queue: usize,
    bytes: &'a [u8],
    /// Bytes of room for the answer.
    room: u32,
}

struct Guest {
    transport: MmioTransport,
    memory: Arc<GuestMemory>,
    random: Random,
    /// Where memory can be plugged in.
    growth: u64,
}

impl Guest {
    fn read(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.transport.write(u64::from(offset), &value.to_le_bytes());
    }

    fn queues(&self) -> usize {
        self.transport.kicks().len()
    }

    fn features(&mut self) -> u64 {
        let mut half = |select| {
            self.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::VIRTIO_MMIO_DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// The steps of a driver (virtio 1.2, 3.1.1), or nearly.
    fn set_up(&mut self, features: u64, damaged: bool) {
        let mut steps = vec![(reg::VIRTIO_MMIO_STATUS, 1), (reg::VIRTIO_MMIO_STATUS, 3)];
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            steps.extend([(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select), (reg::VIRTIO_MMIO_DRIVER_FEATURES, half)]);
        }
        steps.push((reg::VIRTIO_MMIO_STATUS, 11));
        for queue in 0..self.queues() {
            let base = ring(queue);
            steps.extend([
                (reg::VIRTIO_MMIO_QUEUE_SEL, queue as u32),
                (reg::VIRTIO_MMIO_QUEUE_NUM, u32::from(SIZE)),
                (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, base as u32),
                (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, (base + AVAIL) as u32),
                (reg::VIRTIO_MMIO_QUEUE_USED_LOW, (base + USED) as u32),
                (reg::VIRTIO_MMIO_QUEUE_READY, 1),
            ]);
        }
        steps.push((reg::VIRTIO_MMIO_STATUS, READY));
        self.write(reg::VIRTIO_MMIO_STATUS, 0);
        if !damaged || self.random.below(4) > 0 {
            let clear = |queue| self.memory.write_slice(&[0; 0x3000], GuestAddress(ring(queue))).unwrap();
            (0..self.queues()).for_each(clear);
        }
        for (offset, value) in steps {
            let wrong = damaged && self.random.below(200) == 0;
            let value = if wrong { self.value() } else { value };
            self.write(offset, value);
        }
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn put_descriptor(&self, queue: usize, index: u64, address: u64, len: u32, [flags, next]: [u16; 2]) {
        let at = ring(queue) + 16 * index;
        self.put(at, address);
        self.put(at + 8, len);
        self.put(at + 12, [flags, next]);
    }

    fn value(&mut self) -> u32 {
        let random = self.random.next() as u32;
        let near = ring(random as usize % 16) as u32;
        self.random.pick(&[0, 1, 2, 3, 7, 11, 15, 16, 64, 128, 256, 257, 0xffff, u32::MAX, near, random])
    }

    fn kick(&mut self, queue: usize) {
        self.transport.kicks()[queue].write(1).unwrap();
    }

    /// Changes something in a ring.
    fn scribble(&mut self) {
        let queue = self.random.below(self.queues() as u64) as usize;
        let (base, slot) = (ring(queue), self.random.below(SIZE.into()));
        let index = base + AVAIL + 2;
        match self.random.below(16) {
            0 => self.put(index, self.random.0 as u16),
            1 => self.put(base + AVAIL + 4 + 2 * u64::from(SIZE), self.random.0 as u16),
            2..6 => {
                let more = self.random.below(3) as u16;
                let now: u16 = self.memory.read_obj(GuestAddress(index)).unwrap();
                self.put(index, now.wrapping_add(more));
            }
            6 => {
                let head = self.random.below(u64::from(SIZE) + 1) as u16;
                self.put(base + AVAIL + 4 + 2 * slot, head);
            }
            _ => self.scribble_descriptor(queue, slot),
        }
    }

    fn scribble_descriptor(&mut self, queue: usize, slot: u64) {
        let data = DATA + self.random.below(4) * self.random.below(0x800);
        let anywhere = self.random.next();
        let (plugged, rings) = (self.growth + anywhere % GROWTH, ring(anywhere as usize % 16));
        let address = self.random.pick(&[data, data, data, data, plugged, rings, anywhere]);
        let len = self.random.pick(&[0, 1, 4, 10, 16, 24, 26, 40, 44, 100, 513, 4096, 4096, u32::MAX, anywhere as u32]);
        let flags = self.random.pick(&[0, 0, NEXT, NEXT, WRITE, WRITE, WRITE | NEXT, 4, anywhere as u16]);
        let next = self.random.below(u64::from(SIZE) + 1) as u16;
        self.put_descriptor(queue, slot, address, len, [flags, next]);
    }

    /// Any access of any width to any register.
    fn access(&mut self) {
        let offset = self.random.below(0x140) & self.random.pick(&[!3, !3, !3, u64::MAX]);
        let width = self.random.pick(&[4, 4, 4, 1, 2, 8]);
        let mut value = u64::from(self.value()).to_le_bytes();
        if self.random.below(3) == 0 {
            self.transport.read(offset, &mut value[..width]);
        } else {
            self.transport.write(offset, &value[..width]);
        }
    }

    fn misbehave(&mut self, request: &Request<'_>, mut outside: impl FnMut(&mut Random)) {
        for _ in 0..STEPS {
            match self.random.below(32) {
                0 => {
                    let without = self.random.next() & self.random.next() & 0x00ff_ffff;
                    let features = self.features() & !without;
                    self.set_up(features, true);
                }
                1 => self.access(),
                2..10 => {
                    let queue = self.random.below(self.queues() as u64) as usize;
                    self.kick(queue);
                }
                10 => outside(&mut self.random),
                11 => {
                    let place = DATA + self.random.below(0x80);
                    let value = self.random.next() & self.random.next();
                    self.put(place, value);
                }
                12 => self.memory.write_slice(request.bytes, GuestAddress(DATA)).unwrap(),
                _ => self.scribble(),
            }
        }
    }

    /// Is a driver that keeps the rules.
    fn expect_served(&mut self, name: &str, request: &Request<'_>) {
        let features = self.features();
        self.set_up(features, false);
        assert_eq!(self.read(reg::VIRTIO_MMIO_STATUS), READY, "{name}");
        self.memory.write_slice(request.bytes, GuestAddress(DATA)).unwrap();
        let (queue, len) = (request.queue, request.bytes.len() as u32);
        match (len, request.room) {
            (0, room) => self.put_descriptor(queue, 0, ANSWER, room, [WRITE, 0]),
            (len, 0) => self.put_descriptor(queue, 0, DATA, len, [0, 0]),
            (len, room) => {
                self.put_descriptor(queue, 0, DATA, len, [NEXT, 1]);
                self.put_descriptor(queue, 1, ANSWER, room, [WRITE, 0]);
            }
        }
        self.put(ring(queue) + AVAIL + 2, 1u16);
        self.kick(queue);
        let begin = Instant::now();
        while self.memory.read_obj::<u16>(GuestAddress(ring(queue) + USED + 2)).unwrap() != 1 {
            assert!(begin.elapsed() < PATIENCE, "{name} gives nothing back");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.read(reg::VIRTIO_MMIO_STATUS), READY, "{name}");
    }
}

/// Makes a device and has both guests at it. `outside` is what happens on the host meanwhile.
fn suffer(name: &str, request: &Request<'_>, make: impl FnOnce(LoopHandle, (u64, u64)) -> Made) {
    let device_loop = EventLoop::start(Arc::new(|_| {})).unwrap();
    let memory = memory::allocate_growing(64, 64 + (GROWTH >> 20)).unwrap();
    let growth = memory.growth.unwrap();
    let (device, outside) = make(device_loop.handle(), growth);
    let transport = MmioTransport::new(device, Arc::clone(&memory.guest)).unwrap();
    println!("{name}");
    let mut guest = Guest { transport, memory: memory.guest, random: Random::new(), growth: growth.0 };
    guest.misbehave(request, outside);
    guest.expect_served(name, request);
    guest.transport.reset();
}

/// A device, and what happens to it on the host.
type Made = (Box<dyn VirtioDevice>, Box<dyn FnMut(&mut Random)>);

fn alone(device: impl VirtioDevice + 'static) -> Made {
    (Box::new(device), Box::new(|_| {}))
}

#[test]
fn rng() {
    suffer("rng", &Request { queue: 0, bytes: &[], room: 64 }, |device_loop, _| alone(Rng::new(device_loop)));
}

#[test]
fn console() {
    let request = Request { queue: 1, bytes: b"hello", room: 0 };
    suffer("console", &request, |device_loop, _| alone(Console::new(ConsoleLog::new(false), device_loop)));
}

#[test]
fn balloon() {
    suffer("balloon", &Request { queue: 2, bytes: &[], room: 4096 }, |device_loop, _| alone(Balloon::new(device_loop)));
}

#[test]
fn mem() {
    // VIRTIO_MEM_REQ_STATE of no block.
    let mut state = [0; 24];
    state[0] = 3;
    suffer("mem", &Request { queue: 0, bytes: &state, room: 10 }, |device_loop, (start, length)| {
        let (mem, control) = Mem::new(start, length, device_loop);
        (Box::new(mem), Box::new(move |random| control.request(random.below(2 * length))))
    });
}

#[test]
fn blk() {
    suffer("blk", &Request { queue: 0, bytes: &[0; 16], room: 513 }, |_, _| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let config = BlkConfig { file, read_only: false, block_size: 512, serial: "7:0".into() };
        alone(Blk::new(config, Arc::new(|_| ())).unwrap())
    });
}

#[test]
fn fs() {
    let root = tempfile::tempdir().unwrap();
    // FUSE_INTERRUPT, of which nothing comes.
    let mut interrupt = [0; 48];
    (interrupt[0], interrupt[4]) = (48, 36);
    suffer("fs", &Request { queue: 1, bytes: &interrupt, room: 0 }, |_, _| {
        let config = FsConfig {
            tag: "test".into(),
            root: root.path().to_owned(),
            proc_self_fd: OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc/self/fd").unwrap(),
            workers: 3,
            open_files_max: 100,
            cache: CachePolicy::Always,
            replay: ReplayUids { touch: 90, make: 91, drop: 92, file: 93, directory: 94 },
        };
        alone(Fs::new(config, Arc::new(|_| ())).unwrap())
    });
}

#[test]
fn vsock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock.sock");
    // A packet of nobody's.
    suffer("vsock", &Request { queue: 1, bytes: &[0; 44], room: 0 }, |device_loop, _| {
        let config = VsockConfig {
            guest_cid: 3,
            listener: UnixListener::bind(&path).unwrap(),
            ready_port: 1024,
            on_ready: Box::new(|| ()),
            bell_port: 1025,
            on_bell: Box::new(|| ()),
        };
        // Fewer than wait in the backlog of a device that listens no more.
        let mut clients = 0;
        let outside = move |_: &mut Random| {
            clients += 1;
            if clients < 100 {
                drop(UnixStream::connect(&path));
            }
        };
        (Box::new(Vsock::new(config, device_loop).unwrap()), Box::new(outside))
    });
}

/// With sockets in the place of the tap's queues.
fn net(name: &str, pairs: usize) {
    suffer(name, &Request { queue: 1, bytes: &[0; 60], room: 0 }, |device_loop, _| {
        let ends = (0..pairs).map(|_| UnixDatagram::pair().unwrap());
        let (taps, hosts): (Vec<_>, Vec<_>) = ends.unzip();
        taps.iter().chain(&hosts).for_each(|socket| socket.set_nonblocking(true).unwrap());
        let pairs = taps.into_iter().map(|tap| QueuePair { tap: tap.into(), vhost: None }).collect();
        let outside = move |random: &mut Random| {
            let mut frame = vec![0; random.below(3000) as usize];
            frame.iter_mut().take(12).for_each(|byte| *byte = random.pick(&[0, 0, 0, 1, 4, 0xff]));
            for host in &hosts {
                let _ = host.send(&frame);
                let _ = host.recv(&mut [0; 100]);
            }
        };
        (Box::new(Net::new(NetConfig { pairs, mac: [2; 6] }, device_loop)), Box::new(outside))
    });
}

#[test]
fn net_with_one_pair() {
    net("net", 1);
}

#[test]
fn net_with_several_pairs() {
    net("net with several pairs", 4);
}
