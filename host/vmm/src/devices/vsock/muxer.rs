//! The table of connections: who may have one, which packet goes where, whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use event_manager::{EventOps, Events};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, Fate, Stage};
use super::device::Shared;
use super::packet::{HEADER_LEN, HOST_CID, Header, RxBuffer, TYPE_STREAM, TxPacket, op};

/// Connections at one time, those of clients that have not yet said what they want included.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Of these, connections that the guest made to the ready port.
pub(super) const MAX_FROM_GUEST: usize = 16;
/// RSTs that wait for a receive buffer in answer to packets for no connection. A guest that sends more of those, and gives no
/// buffers, gets no answer.
pub(super) const MAX_REFUSALS: usize = 256;
/// Credit of a connection in bytes: the most that is held for a client which does not read.
pub(super) const WINDOW: u32 = 256 << 10;
/// Credit of a connection once [`WINDOW_BUDGET`] is spent.
pub(super) const SMALL_WINDOW: u32 = 16 << 10;
/// Sum of the full windows granted, in bytes: with that of the small ones it bounds the memory that guest and clients can claim.
pub(super) const WINDOW_BUDGET: u64 = 32 << 20;
/// Clients accepted at one wake-up; the others wait in the listener's backlog until the next.
const ACCEPT_BATCH: usize = 64;
/// Host ports of connections to the guest. The token of a connection in epoll is its host port, so below are other tokens.
pub(super) const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;

/// epoll, as far as connections need it.
pub(super) trait Watch {
    /// Watches `stream` for `new` instead of `old`; events carry `token`. False when the system refuses.
    fn watch(&mut self, stream: &UnixStream, token: u32, old: Option<EventSet>, new: Option<EventSet>) -> bool;
}

impl Watch for EventOps<'_> {
    fn watch(&mut self, stream: &UnixStream, token: u32, old: Option<EventSet>, new: Option<EventSet>) -> bool {
        let events = Events::with_data(stream, token, new.unwrap_or(EventSet::empty()));
        match (old, new) {
            (None, None) => Ok(()),
            (None, Some(_)) => self.add(events),
            (Some(_), Some(_)) => self.modify(events),
            (Some(_), None) => self.remove(events),
        }
        .is_ok()
    }
}

/// See the module's text.
pub(super) struct Muxer {
    guest_cid: u64,
    shared: Arc<Shared>,
    connections: HashMap<u32, Connection>,
    /// The guest's own connections: its port, and the key in `connections`.
    from_guest: HashMap<u32, u32>,
    /// Keys of the connections that have something for the guest, each once.
    turns: VecDeque<u32>,
    /// RSTs for what is not, or no longer, in the table.
    resets: VecDeque<Header>,
    next_port: u32,
    windows: u64,
    /// Whether the guest has connected to the ready port.
    ready: bool,
    /// Given up for the moment it takes to turn a client away when the process has no descriptor left.
    spare: Option<EventFd>,
    /// Accepting failed for want of something: not again before something else has happened.
    paused: bool,
    /// Whether trouble with accepting was logged.
    warned: bool,
    /// Connections at one time.
    limit: usize,
}

impl Muxer {
    /// An empty table with room for `limit` connections, as a rule [`MAX_CONNECTIONS`].
    pub fn new(shared: Arc<Shared>, limit: usize) -> Self {
        Muxer {
            guest_cid: shared.guest_cid,
            shared,
            connections: HashMap::new(),
            from_guest: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            windows: 0,
            ready: false,
            spare: EventFd::new(0).ok(),
            paused: false,
            warned: false,
            limit,
        }
    }

    /// Whether there may be something to put into receive buffers.
    pub fn has_turns(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Whether the listener is to be watched.
    pub fn accepts(&self) -> bool {
        !self.paused && (self.connections.len() < self.limit || self.find_evictable().is_some())
    }

    /// Something happened, so accepting is worth another try.
    pub fn unpause(&mut self) {
        if std::mem::take(&mut self.paused) && self.spare.is_none() {
            self.spare = EventFd::new(0).ok();
        }
    }

    /// Takes the clients that wait at `listener`.
    pub fn accept(&mut self, listener: &UnixListener, watch: &mut dyn Watch) {
        for _ in 0..ACCEPT_BATCH {
            if self.connections.len() >= self.limit && !self.evict(watch) {
                return;
            }
            match listener.accept() {
                Ok((stream, _)) => self.add_client(stream, watch),
                Err(err) => match err.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    Some(libc::EINTR | libc::ECONNABORTED) => {}
                    Some(libc::EMFILE | libc::ENFILE) if self.spare.take().is_some() => {
                        // The kernel looks for a descriptor before it looks for a client.
                        let turned_away = listener.accept().map(drop).is_ok();
                        self.spare = EventFd::new(0).ok();
                        if !turned_away {
                            return;
                        }
                        self.warn_once("out of file descriptors, clients are turned away");
                    }
                    _ => {
                        self.warn_once(&format!("cannot accept a client: {err}"));
                        self.paused = true;
                        return;
                    }
                },
            }
        }
    }

    /// Clients must not be able to fill the log.
    fn warn_once(&mut self, what: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            log::warn!("vsock: {what}");
        }
    }

    /// Takes a client that has connected.
    pub fn add_client(&mut self, stream: UnixStream, watch: &mut dyn Watch) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let port = self.free_port();
        let mut conn = Connection::from_client(stream, port, self.grant_window());
        // The line is there already, as a rule.
        conn.greet();
        self.connections.insert(port, conn);
        self.settle(port, watch);
    }

    /// epoll reports `events` for the connection `key`.
    pub fn on_socket(&mut self, key: u32, events: EventSet, watch: &mut dyn Watch) {
        if let Some(conn) = self.connections.get_mut(&key) {
            conn.on_socket(events);
            self.settle(key, watch);
        }
    }

    /// The guest sent `packet`.
    pub fn on_packet(&mut self, packet: TxPacket, watch: &mut dyn Watch) {
        let header = packet.header;
        if header.src_cid != self.guest_cid {
            // Nobody to answer to (5.10.6).
            return;
        }
        if header.type_ != TYPE_STREAM || header.dst_cid != HOST_CID {
            self.refuse(&header);
            return;
        }
        if header.dst_port == self.shared.bell_port && header.op == op::REQUEST {
            (self.shared.on_bell)();
        }
        let to_ready = header.dst_port == self.shared.ready_port;
        let key = if to_ready { self.from_guest.get(&header.src_port).copied() } else { Some(header.dst_port) };
        let known = key.and_then(|key| {
            let conn = self.connections.get_mut(&key)?;
            (conn.host_port == header.dst_port && conn.guest_port == header.src_port && conn.known_to_guest())
                .then_some((key, conn))
        });
        match known {
            Some((key, conn)) => {
                let whole = packet.is_whole();
                conn.on_packet(&header, packet.data, whole);
                self.settle(key, watch);
            }
            None if to_ready && key.is_none() && header.op == op::REQUEST => self.on_ready(&header, watch),
            None => self.refuse(&header),
        }
    }

    /// Puts the next packet into `buffer`; how many bytes it has, None when there is none.
    pub fn fill(&mut self, buffer: RxBuffer, watch: &mut dyn Watch) -> Option<u32> {
        let (place, room) = buffer.split();
        if let Some(reset) = self.resets.pop_front() {
            place.write(reset);
            return Some(HEADER_LEN as u32);
        }
        while let Some(key) = self.turns.pop_front() {
            let Some(conn) = self.connections.get_mut(&key) else {
                continue;
            };
            conn.queued = false;
            let packet = conn.next_packet(room.clone());
            self.settle(key, watch);
            if let Some(header) = packet {
                place.write(Header { src_cid: HOST_CID, dst_cid: self.guest_cid, type_: TYPE_STREAM, ..header });
                return Some((HEADER_LEN as u32).saturating_add(header.len));
            }
        }
        None
    }

    /// Closes all connections.
    pub fn clear(&mut self, watch: &mut dyn Watch) {
        for (key, conn) in self.connections.drain() {
            if let Some(stream) = conn.stream() {
                watch.watch(stream, key, conn.watched, None);
            }
        }
        self.from_guest.clear();
        self.turns.clear();
        self.resets.clear();
        self.windows = 0;
        self.ready = false;
        self.shared.set_listening(false);
    }

    /// The guest connects to the ready port.
    fn on_ready(&mut self, request: &Header, watch: &mut dyn Watch) {
        let full = self.connections.len() >= self.limit && !self.evict(watch);
        if full || self.from_guest.len() >= MAX_FROM_GUEST {
            self.refuse(request);
            return;
        }
        let key = self.free_port();
        let conn = Connection::from_guest(request, self.grant_window());
        self.connections.insert(key, conn);
        self.from_guest.insert(request.src_port, key);
        self.settle(key, watch);
        if !self.ready {
            self.ready = true;
            self.shared.set_listening(true);
            let mut held: Vec<u32> =
                self.connections.iter().filter(|(_, c)| c.stage() == Stage::Held).map(|c| *c.0).collect();
            held.sort_unstable();
            for key in held {
                self.settle(key, watch);
            }
        }
    }

    /// After every change of a connection: it is removed, watched, queued, as it needs.
    fn settle(&mut self, key: u32, watch: &mut dyn Watch) {
        let Some(conn) = self.connections.get_mut(&key) else {
            return;
        };
        if conn.stage() == Stage::Held && self.ready {
            conn.request();
        }
        match conn.settle() {
            Fate::Alive => {}
            Fate::Linger => {
                // What epoll knows of a socket has to go before the socket does.
                unwatch(conn, key, watch);
                conn.close();
            }
            Fate::Gone { reset } => return self.remove(key, reset, watch),
        }
        let interest = conn.interest();
        if let Some(stream) = conn.stream().filter(|_| interest != conn.watched) {
            if watch.watch(stream, key, conn.watched, interest) {
                conn.watched = interest;
            } else {
                log::error!("vsock: epoll refuses a socket, its connection is reset");
                conn.fail();
                if let Fate::Gone { reset } = conn.settle() {
                    return self.remove(key, reset, watch);
                }
            }
        }
        if !conn.queued && conn.has_turn() {
            conn.queued = true;
            self.turns.push_back(key);
        }
    }

    fn remove(&mut self, key: u32, reset: bool, watch: &mut dyn Watch) {
        let Some(mut conn) = self.connections.remove(&key) else {
            return;
        };
        unwatch(&mut conn, key, watch);
        if conn.queued {
            self.turns.retain(|turn| *turn != key);
        }
        let by_guest = self.from_guest.get(&conn.guest_port) == Some(&key);
        if by_guest {
            self.from_guest.remove(&conn.guest_port);
        }
        if conn.window() == WINDOW {
            self.windows = self.windows.saturating_sub(u64::from(WINDOW));
        }
        if reset && (!by_guest || self.resets.len() < MAX_REFUSALS) {
            // Those of clients' connections are not bounded by MAX_REFUSALS, for the guest waits for them: there is one for each
            // that was in the table, and no other gets as far as to need one while these wait for receive buffers.
            self.resets.push_back(Header {
                src_cid: HOST_CID,
                dst_cid: self.guest_cid,
                src_port: conn.host_port,
                dst_port: conn.guest_port,
                type_: TYPE_STREAM,
                op: op::RST,
                ..Header::default()
            });
        }
        conn.close();
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST && self.resets.len() < MAX_REFUSALS {
            self.resets.push_back(Header {
                src_cid: header.dst_cid,
                dst_cid: self.guest_cid,
                src_port: header.dst_port,
                dst_port: header.src_port,
                type_: header.type_,
                op: op::RST,
                ..Header::default()
            });
        }
    }

    /// Makes room in a full table, at the cost of who has waited longest for nothing.
    fn evict(&mut self, watch: &mut dyn Watch) -> bool {
        let Some(key) = self.find_evictable() else { return false };
        if let Some(conn) = self.connections.get_mut(&key) {
            conn.fail();
        }
        self.settle(key, watch);
        true
    }

    /// A client that does not say what it wants, or a connection whose client is gone.
    fn find_evictable(&self) -> Option<u32> {
        let idle = |conn: &Connection| conn.stage() == Stage::Greeting || conn.is_lingering();
        self.connections.iter().filter(|(_, conn)| idle(conn)).map(|(key, _)| *key).min()
    }

    /// A port that no connection has. There are far more of them than connections.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port >= LAST_PORT { FIRST_PORT } else { port + 1 };
            if port != self.shared.ready_port && !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    fn grant_window(&mut self) -> u32 {
        if self.windows + u64::from(WINDOW) > WINDOW_BUDGET {
            return SMALL_WINDOW;
        }
        self.windows += u64::from(WINDOW);
        WINDOW
    }

    /// Connections, waiting resets, turns, and bytes held: what has to stay bounded.
    #[cfg(test)]
    pub fn load(&self) -> [usize; 4] {
        let held = self.connections.values().map(Connection::buffered).sum();
        [self.connections.len(), self.resets.len(), self.turns.len(), held]
    }
}

fn unwatch(conn: &mut Connection, key: u32, watch: &mut dyn Watch) {
    if let Some(stream) = conn.stream() {
        watch.watch(stream, key, conn.watched, None);
    }
    conn.watched = None;
}
