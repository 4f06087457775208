//! A guest for the tests: the driver's side of the rings, and what a guest does with its sockets. It kicks only when the device asked
//! for it and sleeps until the device interrupts, so that a lost notification shows as a test that times out.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Vsock, VsockConfig};
use super::packet::{HEADER_LEN, HOST_CID, Header, SHUTDOWN_BOTH, TYPE_STREAM, op};
use crate::devices::{Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt, VirtioDevice};
use crate::event_loop::EventLoop;
use crate::memory::GuestMemory;

pub const CID: u64 = 3;
pub const READY_PORT: u32 = 1024;
pub const BELL_PORT: u32 = 1025;
/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not happen to happen.
pub const QUIET: Duration = Duration::from_millis(150);

pub const RX: usize = 0;
pub const TX: usize = 1;
const SIZE: u16 = 256;
const TX_BUFFER: u64 = 8 << 10;
pub const RX_BUFFER: u32 = 4 << 10;
pub const MEMORY: usize = 8 << 20;
/// Memory that the driver itself does not use.
pub const FREE: u64 = 6 << 20;

pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// A descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

#[derive(Default)]
struct Ring {
    base: u64,
    avail: u16,
    used: u16,
    free: Vec<u16>,
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
    pub device: Vsock,
    pub interrupt: Arc<Interrupt>,
    pub ready_calls: Arc<AtomicUsize>,
    pub bell_calls: Arc<AtomicUsize>,
    pub path: PathBuf,
    event_loop: Option<EventLoop>,
    /// /proc directory of the loop's thread.
    task: PathBuf,
    rings: [Ring; 3],
    kicks: Vec<EventFd>,
    irq: Epoll,
    features: u64,
    got: VecDeque<(Header, Vec<u8>)>,
    _dir: tempfile::TempDir,
}

impl Driver {
    pub fn new() -> Self {
        Self::with_features(F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC)
    }

    pub fn with_features(features: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let task = Arc::new(Mutex::new(PathBuf::new()));
        let here = Arc::clone(&task);
        let event_loop = EventLoop::start(Arc::new(move |_| {
            *here.lock().unwrap() = PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self").unwrap());
        }))
        .unwrap();
        let ready_calls = Arc::new(AtomicUsize::new(0));
        let calls = Arc::clone(&ready_calls);
        let bell_calls = Arc::new(AtomicUsize::new(0));
        let rung = Arc::clone(&bell_calls);
        let config = VsockConfig {
            guest_cid: CID,
            listener: UnixListener::bind(&path).unwrap(),
            ready_port: READY_PORT,
            on_ready: Box::new(move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }),
            bell_port: BELL_PORT,
            on_bell: Box::new(move || {
                rung.fetch_add(1, Ordering::SeqCst);
            }),
        };
        let device = Vsock::new(config, event_loop.handle()).unwrap();
        let mut driver = Driver {
            memory: Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()),
            device,
            interrupt: Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            ready_calls,
            bell_calls,
            path,
            event_loop: Some(event_loop),
            task: PathBuf::new(),
            rings: Default::default(),
            kicks: Vec::new(),
            irq: Epoll::new().unwrap(),
            features,
            got: VecDeque::new(),
            _dir: dir,
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
        self.got.clear();
        let mut queues = Vec::new();
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let base = 0x10000 * (index as u64 + 1);
            self.memory.write_slice(&[0; 0x4000], GuestAddress(base)).unwrap();
            *ring = Ring { base, free: (0..SIZE).collect(), ..Ring::default() };
            let mut queue = Queue::new(SIZE).unwrap();
            queue.try_set_desc_table_address(GuestAddress(base)).unwrap();
            queue.try_set_avail_ring_address(GuestAddress(ring.avail())).unwrap();
            queue.try_set_used_ring_address(GuestAddress(ring.used())).unwrap();
            queue.set_event_idx(self.features & F_EVENT_IDX != 0);
            queue.set_ready(true);
            assert!(queue.is_valid(&*self.memory));
            queues.push(queue);
        }
        self.kicks = (0..3).map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
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

    /// Gives the device all receive buffers.
    pub fn fill_rx(&mut self) {
        self.give_rx(usize::from(SIZE));
    }

    /// Gives the device `count` receive buffers.
    pub fn give_rx(&mut self, count: usize) {
        for _ in 0..count {
            let Some(head) = self.rings[RX].free.pop() else { break };
            self.put(RX, head, (4 << 20) + u64::from(head) * u64::from(RX_BUFFER), RX_BUFFER, WRITE);
        }
        self.kick(RX);
    }

    fn put(&mut self, ring: usize, head: u16, addr: u64, len: u32, flags: u16) {
        self.write_desc(self.rings[ring].base, head, (addr, len, flags, 0));
        self.publish(ring, head);
    }

    pub fn write_desc(&self, table: u64, index: u16, desc: Desc) {
        let at = GuestAddress(table + 16 * u64::from(index));
        let mut bytes = desc.0.to_le_bytes().to_vec();
        bytes.extend(desc.1.to_le_bytes());
        bytes.extend(desc.2.to_le_bytes());
        bytes.extend(desc.3.to_le_bytes());
        self.memory.write_slice(&bytes, at).unwrap();
    }

    fn publish(&mut self, ring: usize, head: u16) {
        let ring = &mut self.rings[ring];
        let slot = ring.avail() + 4 + 2 * u64::from(ring.avail % SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        self.memory.store(ring.avail, GuestAddress(ring.avail() + 2), Ordering::Release).unwrap();
    }

    /// Makes `descs`, linked as they are, available and kicks whatever the device says; for chains that a sane driver does not make.
    pub fn put_chain(&mut self, ring: usize, descs: &[Desc]) {
        let base = self.rings[ring].base;
        for (index, desc) in descs.iter().enumerate() {
            self.write_desc(base, index as u16, *desc);
        }
        self.publish(ring, 0);
        self.kicks[ring].write(1).unwrap();
    }

    /// Announces `idx` available entries.
    pub fn put_avail_idx(&mut self, ring: usize, idx: u16) {
        self.memory.write_obj(idx, GuestAddress(self.rings[ring].avail() + 2)).unwrap();
        self.kicks[ring].write(1).unwrap();
    }

    /// Makes `head` available, whatever it is.
    pub fn put_head(&mut self, ring: usize, head: u16) {
        self.publish(ring, head);
        self.kicks[ring].write(1).unwrap();
    }

    /// How many chains the device has given back.
    pub fn used_idx(&self, ring: usize) -> u16 {
        self.memory.load(GuestAddress(self.rings[ring].used() + 2), Ordering::Acquire).unwrap()
    }

    fn kick(&self, ring: usize) {
        fence(Ordering::SeqCst);
        let used = self.rings[ring].used();
        let wanted = if self.features & F_EVENT_IDX != 0 {
            let event: u16 = self.memory.read_obj(GuestAddress(used + 4 + 8 * u64::from(SIZE))).unwrap();
            // Kicked after each entry but for those of `give_rx`, so "passed since" is at most a ring away.
            self.rings[ring].avail.wrapping_sub(event).wrapping_sub(1) < SIZE
        } else {
            self.memory.read_obj::<u16>(GuestAddress(used)).unwrap() & 1 == 0
        };
        if wanted {
            self.kicks[ring].write(1).unwrap();
        }
    }

    fn take_used(&mut self, ring: usize) -> Option<(u16, u32)> {
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

    /// Takes in all that the device has used.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some((head, len)) = self.take_used(TX) {
            assert_eq!(len, 0, "the device wrote to a tx buffer");
            self.rings[TX].free.push(head);
            any = true;
        }
        while let Some((head, len)) = self.take_used(RX) {
            let mut bytes = vec![0; len as usize];
            let addr = (4 << 20) + u64::from(head) * u64::from(RX_BUFFER);
            self.memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
            let (header, data) = bytes.split_first_chunk::<HEADER_LEN>().unwrap();
            let header = Header::parse(header);
            assert_eq!(header.len as usize, data.len());
            assert_eq!((header.dst_cid, header.flags & !SHUTDOWN_BOTH), (CID, 0));
            self.got.push_back((header, data.to_vec()));
            self.rings[RX].free.push(head);
            any = true;
        }
        any
    }

    /// Waits until the device interrupts; false when it has not until `deadline`.
    fn wait(&mut self, deadline: Instant) -> bool {
        loop {
            if self.collect() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut events = [EpollEvent::default()];
            if self.irq.wait(left.as_millis() as i32 + 1, &mut events).unwrap() > 0 {
                let _ = self.interrupt.irq().read();
                self.interrupt.acknowledge(u32::MAX);
            }
        }
    }

    /// The next packet from the device; its buffer is given back at once.
    pub fn recv(&mut self) -> (Header, Vec<u8>) {
        let packet = self.recv_within(PATIENCE);
        packet.unwrap_or_else(|| panic!("no packet from the device: {}", self.describe()))
    }

    pub fn recv_within(&mut self, timeout: Duration) -> Option<(Header, Vec<u8>)> {
        let packet = self.recv_and_keep(timeout);
        if packet.is_some() {
            self.give_rx(1);
        }
        packet
    }

    /// For whoever looks into a failure.
    fn describe(&self) -> String {
        let rings = self.rings.iter().map(|ring| {
            let used: u16 = self.memory.read_obj(GuestAddress(ring.used() + 2)).unwrap();
            let event: u16 = self.memory.read_obj(GuestAddress(ring.used() + 4 + 8 * u64::from(SIZE))).unwrap();
            format!("avail {} event {event}, used {used} seen {}; ", ring.avail, ring.used)
        });
        format!("{}needs reset: {}", rings.collect::<String>(), self.interrupt.needs_reset())
    }

    /// As [`Self::recv_within`], but the buffer is not given back.
    pub fn recv_and_keep(&mut self, timeout: Duration) -> Option<(Header, Vec<u8>)> {
        let deadline = Instant::now() + timeout;
        while self.got.is_empty() {
            if !self.wait(deadline) {
                return None;
            }
        }
        self.got.pop_front()
    }

    /// The next packet, which has to be of operation `wanted`.
    pub fn expect(&mut self, wanted: u16) -> Header {
        let (header, _) = self.recv();
        assert_eq!(header.op, wanted, "{header:?}");
        header
    }

    pub fn expect_silence(&mut self) {
        let packet = self.recv_within(QUIET);
        assert!(packet.is_none(), "{packet:?}");
    }

    /// Sends a packet, in one descriptor.
    pub fn send(&mut self, header: Header, data: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        self.collect();
        while self.rings[TX].free.is_empty() {
            assert!(self.wait(deadline), "the device does not take packets");
        }
        let head = self.rings[TX].free.pop().unwrap();
        let addr = (1 << 20) + u64::from(head) * TX_BUFFER;
        self.memory.write_slice(&header.to_bytes(), GuestAddress(addr)).unwrap();
        self.memory.write_slice(data, GuestAddress(addr + HEADER_LEN as u64)).unwrap();
        self.put(TX, head, addr, (HEADER_LEN + data.len()) as u32, 0);
        self.kick(TX);
    }

    /// Waits until the device has taken all packets.
    pub fn sync(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.rings[TX].free.len() < usize::from(SIZE) && !self.interrupt.needs_reset() {
            assert!(self.wait(deadline), "the device does not take packets");
        }
    }

    pub fn wait_needs_reset(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.interrupt.needs_reset() {
            assert!(Instant::now() < deadline, "the device does not ask for a reset");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A header of a stream packet from guest port `from` to host port `to`.
    pub fn header(op: u16, from: u32, to: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: from,
            dst_port: to,
            type_: TYPE_STREAM,
            op,
            buf_alloc: 256 << 10,
            ..Header::default()
        }
    }

    /// The guest reports that it listens.
    pub fn ready(&mut self) {
        self.send(Self::header(op::REQUEST, 5000, READY_PORT), &[]);
        let (header, _) = self.recv();
        assert_eq!((header.op, header.src_port, header.dst_port), (op::RESPONSE, READY_PORT, 5000));
    }

    /// A client that has asked for `port`.
    pub fn client(&self, port: u32) -> UnixStream {
        let mut stream = self.raw_client();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream
    }

    pub fn raw_client(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Answers the REQUEST that comes next: the guest's end of the connection has `window` bytes of room.
    pub fn accept(&mut self, port: u32, window: u32) -> GuestSocket {
        let request = self.expect(op::REQUEST);
        assert_eq!((request.src_cid, request.dst_port, request.fwd_cnt), (HOST_CID, port, 0));
        let socket = GuestSocket { port, host_port: request.src_port, window, forwarded: 0 };
        self.send(socket.header(op::RESPONSE), &[]);
        socket
    }

    /// A client and the guest's end of its connection, both ready for data.
    pub fn connect(&mut self, port: u32, window: u32) -> (UnixStream, GuestSocket) {
        let client = self.client(port);
        let socket = self.accept(port, window);
        assert_eq!(read_line(&client), format!("OK {}\n", socket.host_port));
        (client, socket)
    }

    /// A device with buffers and a guest that listens.
    pub fn booted() -> Self {
        let mut driver = Driver::new();
        driver.fill_rx();
        driver.ready();
        driver
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

/// The guest's end of a connection.
pub struct GuestSocket {
    pub port: u32,
    pub host_port: u32,
    pub window: u32,
    pub forwarded: u32,
}

impl GuestSocket {
    pub fn header(&self, op: u16) -> Header {
        Header { buf_alloc: self.window, fwd_cnt: self.forwarded, ..Driver::header(op, self.port, self.host_port) }
    }

    pub fn rw(&self, len: usize) -> Header {
        Header { len: len as u32, ..self.header(op::RW) }
    }

    pub fn shutdown(&self, flags: u32) -> Header {
        Header { flags, ..self.header(op::SHUTDOWN) }
    }

    /// Receives exactly `count` bytes, and gives their credit back.
    pub fn read(&mut self, driver: &mut Driver, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (header, data) = driver.recv();
            assert_eq!((header.src_port, header.dst_port), (self.host_port, self.port), "{header:?}");
            match header.op {
                op::CREDIT_UPDATE | op::CREDIT_REQUEST => continue,
                other => assert_eq!(other, op::RW),
            }
            bytes.extend(data);
            self.forwarded = self.forwarded.wrapping_add(header.len);
            driver.send(self.header(op::CREDIT_UPDATE), &[]);
        }
        assert_eq!(bytes.len(), count);
        bytes
    }
}

/// A line, read without taking what follows.
pub fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
    line
}

/// All there is until the end of the stream.
pub fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Numbers that are random enough, from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// With a seed that is printed, and can be given in VSOCK_TEST_SEED.
    pub fn new() -> Self {
        let given = std::env::var("VSOCK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        println!("VSOCK_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
