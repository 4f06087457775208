//! The table of connections alone: random guests and clients, with every bound checked at every step.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use vm_memory::{GuestAddress, GuestMemory as _};
use vmm_sys_util::epoll::EventSet;

use super::device::{Shared, VsockConfig};
use super::muxer::{FIRST_PORT, MAX_FROM_GUEST, MAX_REFUSALS, Muxer, SMALL_WINDOW, WINDOW, WINDOW_BUDGET, Watch};
use super::packet::{Buffers, HEADER_LEN, Header, RxBuffer, TxPacket, op};
use super::tests_driver::{BELL_PORT, CID, Driver, READY_PORT, Random};
use crate::memory::GuestMemory;

/// Checks that sockets are added, changed and removed in order, as epoll would.
#[derive(Default)]
struct Registry {
    watched: HashMap<i32, (u32, EventSet)>,
    refuse: bool,
}

impl Watch for Registry {
    fn watch(&mut self, stream: &UnixStream, token: u32, old: Option<EventSet>, new: Option<EventSet>) -> bool {
        let fd = stream.as_raw_fd();
        assert_eq!(self.watched.get(&fd).copied(), old.map(|old| (token, old)));
        match new {
            Some(_) if self.refuse => return false,
            Some(new) => drop(self.watched.insert(fd, (token, new))),
            None => drop(self.watched.remove(&fd)),
        }
        true
    }
}

struct Bench {
    muxer: Muxer,
    registry: Registry,
    memory: GuestMemory,
    limit: usize,
}

impl Bench {
    fn new(limit: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = VsockConfig {
            guest_cid: CID,
            listener: UnixListener::bind(dir.path().join("s")).unwrap(),
            ready_port: READY_PORT,
            on_ready: Box::new(|| {}),
            bell_port: BELL_PORT,
            on_bell: Box::new(|| {}),
        };
        Bench {
            muxer: Muxer::new(Shared::new(config), limit),
            registry: Registry::default(),
            memory: GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap(),
            limit,
        }
    }

    fn send(&mut self, header: Header, data: usize) {
        let data = Buffers::one(self.memory.get_slice(GuestAddress(0x8_0000), data).unwrap());
        self.muxer.on_packet(TxPacket { header, data }, &mut self.registry);
    }

    fn recv(&mut self) -> Option<Header> {
        let slice = self.memory.get_slice(GuestAddress(0), 4096).unwrap();
        let len = self.muxer.fill(RxBuffer::around(Buffers::one(slice.clone())), &mut self.registry)?;
        let mut bytes = [0; HEADER_LEN];
        slice.copy_to(&mut bytes);
        let header = Header::parse(&bytes);
        assert_eq!(len, header.len + HEADER_LEN as u32);
        Some(header)
    }

    fn client(&mut self, line: &[u8]) -> UnixStream {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(line).unwrap();
        ours.set_nonblocking(true).unwrap();
        self.muxer.add_client(theirs, &mut self.registry);
        ours
    }

    /// Tells of whatever epoll could tell of `fd`.
    fn event(&mut self, fd: i32, events: EventSet) {
        if let Some((token, watched)) = self.registry.watched.get(&fd).copied() {
            let events = events & (watched | EventSet::HANG_UP | EventSet::ERROR);
            if !events.is_empty() {
                self.muxer.on_socket(token, events, &mut self.registry);
            }
        }
    }

    fn check(&self) {
        let [connections, resets, turns, held] = self.muxer.load();
        assert!(connections <= self.limit, "{connections} connections");
        assert!(resets <= MAX_REFUSALS + self.limit, "{resets} resets");
        assert!(turns <= connections, "{turns} turns");
        assert!(held <= WINDOW_BUDGET as usize + self.limit * SMALL_WINDOW as usize, "{held} bytes held");
        assert!(self.registry.watched.len() <= connections);
    }
}

#[test]
fn random_packets_stay_within_bounds() {
    let mut random = Random::new();
    let mut bench = Bench::new(40);
    let mut clients: Vec<UnixStream> = Vec::new();
    let mut known: Vec<(u32, u32)> = vec![(5000, READY_PORT)];
    let (mut opened, mut data, mut replies) = (0, 0, 0);
    for _ in 0..60_000 {
        match random.below(16) {
            // A guest that makes sense now and then, or it would never get past the first step.
            0..7 => {
                let (port, host_port) = if random.below(20) == 0 {
                    (random.next() as u32, random.next() as u32)
                } else {
                    known[known.len() - 1 - random.below(known.len().min(60) as u64) as usize]
                };
                let operation = random.pick(&[0, 1, 2, 2, 2, 3, 4, 5, 5, 5, 5, 5, 5, 6, 6, 7, 9]);
                let mut header = Driver::header(operation, port, host_port);
                if random.below(50) == 0 {
                    header.src_cid = random.below(5);
                    header.dst_cid = random.next();
                    header.type_ = random.next() as u16;
                }
                header.flags = random.pick(&[0, 0, 0, 1, 2, 3, random.0 as u32]);
                header.buf_alloc = random.pick(&[0, 1, 5000, 1 << 18, u32::MAX, random.0 as u32]);
                header.fwd_cnt = random.pick(&[0, 1, 5000, u32::MAX, random.0 as u32]);
                let data = random.pick(&[0, 1, 100, 4096, 65536, 200_000]);
                header.len = if random.below(30) == 0 { random.next() as u32 } else { data as u32 };
                bench.send(header, data.min(header.len as usize));
            }
            7..10 => {
                for _ in 0..random.below(6) {
                    let Some(header) = bench.recv() else { break };
                    replies += 1;
                    data += u64::from(header.len);
                    if header.op == op::REQUEST {
                        opened += 1;
                        known.push((header.dst_port, header.src_port));
                    }
                }
            }
            10 => {
                let line: &[u8] = match random.below(8) {
                    0 => b"CONN",
                    1 => b"CONNECT x1\n",
                    _ => b"CONNECT 1025\nsome data behind it",
                };
                if !bench.muxer.accepts() {
                    clients.drain(..clients.len() / 2);
                } else if bench.muxer.load()[0] < bench.limit {
                    clients.push(bench.client(line));
                }
            }
            11 if !clients.is_empty() => {
                let gone = random.below(clients.len() as u64) as usize;
                clients.swap_remove(gone);
            }
            12 | 13 if !clients.is_empty() => {
                let which = random.below(clients.len() as u64) as usize;
                let client = &mut clients[which];
                let _ = client.write(&[1; 3000]);
            }
            14 if !clients.is_empty() => {
                let which = random.below(clients.len() as u64) as usize;
                let _ = match random.below(6) {
                    0 => clients[which].shutdown(std::net::Shutdown::Write).map(|()| 0),
                    1 => clients[which].shutdown(std::net::Shutdown::Read).map(|()| 0),
                    2 | 3 => clients[which].write(&[1; 3000]),
                    _ => clients[which].read(&mut [0; 100_000]),
                };
            }
            _ => {
                // True or not, an event must do no harm.
                let fds: Vec<i32> = bench.registry.watched.keys().copied().collect();
                for fd in fds {
                    let hang_up = if random.below(200) == 0 { EventSet::HANG_UP } else { EventSet::empty() };
                    bench.event(fd, EventSet::IN | EventSet::OUT | hang_up);
                }
            }
        }
        bench.check();
    }
    println!("{opened} connections opened, {replies} packets and {data} bytes to the guest");
    assert!(opened > 50 && replies > 1000 && data > 1000);
    bench.muxer.clear(&mut bench.registry);
    assert_eq!(bench.muxer.load(), [0; 4]);
    assert!(bench.registry.watched.is_empty(), "sockets were left in epoll");
}

#[test]
fn a_full_table_turns_out_who_waits_for_nothing() {
    let mut bench = Bench::new(8);
    bench.send(Driver::header(op::REQUEST, 5000, READY_PORT), 0);
    assert_eq!(bench.recv().unwrap().op, op::RESPONSE);
    let mut silent: Vec<_> = (0..7).map(|_| bench.client(b"CONNE")).collect();
    assert!(bench.muxer.accepts());
    // An eighth client, as `accept` would take it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..7 {
        waiting.push(UnixStream::connect(&path).unwrap());
        waiting.last_mut().unwrap().write_all(b"CONNECT 1025\n").unwrap();
        bench.muxer.accept(&listener, &mut bench.registry);
        assert_eq!(bench.recv().unwrap().op, op::REQUEST);
        bench.check();
    }
    for client in &mut silent {
        assert!(matches!(client.read(&mut [0; 64]), Ok(count) if count > 0), "no word for a client turned out");
    }
    // All of them wait for the guest: no more are taken, and the listener is not to be watched.
    assert!(!bench.muxer.accepts());
    waiting.push(UnixStream::connect(&path).unwrap());
    bench.muxer.accept(&listener, &mut bench.registry);
    assert_eq!(bench.muxer.load()[0], 8);
    // One answer of the guest, and there is room again.
    bench.send(Driver::header(op::RST, 1025, FIRST_PORT + 8), 0);
    assert!(bench.muxer.accepts());
}

#[test]
fn a_socket_that_epoll_refuses_is_closed() {
    let mut bench = Bench::new(8);
    bench.registry.refuse = true;
    let mut client = bench.client(b"CONN");
    assert_eq!(bench.muxer.load(), [0; 4]);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ERR connection refused\n");
}

#[test]
fn windows_shrink_when_the_budget_is_spent() {
    let mut bench = Bench::new(200);
    bench.send(Driver::header(op::REQUEST, 5000, READY_PORT), 0);
    assert_eq!(bench.recv().unwrap().buf_alloc, WINDOW);
    let mut granted = u64::from(WINDOW);
    let clients: Vec<_> = (0..150).map(|_| bench.client(b"CONNECT 1025\n")).collect();
    while let Some(header) = bench.recv() {
        granted += u64::from(header.buf_alloc);
        assert!(header.buf_alloc == WINDOW || header.buf_alloc == SMALL_WINDOW);
    }
    assert!(granted <= WINDOW_BUDGET + 150 * u64::from(SMALL_WINDOW));
    // And grow again.
    for port in FIRST_PORT..FIRST_PORT + 200 {
        bench.send(Driver::header(op::RST, 1025, port), 0);
    }
    drop(clients);
    let _client = bench.client(b"CONNECT 1025\n");
    let last = std::iter::from_fn(|| bench.recv()).last().unwrap();
    assert_eq!((last.op, last.buf_alloc), (op::REQUEST, WINDOW));
}

#[test]
fn the_guest_cannot_fill_the_table() {
    let mut bench = Bench::new(64);
    for round in 0..20_000u32 {
        // A connection and what ends it in disorder, again and again, and never a receive buffer.
        let operation = if round % 2 == 0 { op::REQUEST } else { op::RESPONSE };
        bench.send(Driver::header(operation, round / 2, READY_PORT), 0);
        bench.check();
    }
    for port in 0..100 {
        bench.send(Driver::header(op::REQUEST, 50_000 + port, READY_PORT), 0);
    }
    let [connections, resets, ..] = bench.muxer.load();
    assert!(connections <= MAX_FROM_GUEST && resets <= MAX_REFUSALS);
}
