//! One connection: a client's Unix socket on one side, a stream socket of the guest on the other.
//!
//! ```text
//!  Greeting ──"CONNECT n"──▶ Held ──guest is ready──▶ Requested ──RESPONSE──▶ Open ──▶ gone
//!                                                         └───────RST───────────────────▲
//! ```
//! Each direction of an open connection ends on its own. The connection is gone when both have ended and the guest knows; until the
//! guest has answered our SHUTDOWN of both directions with a RST it stays, without a socket (virtio 1.2, 5.10.6.6).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::outbox::Outbox;
use super::packet::{Buffers, Header, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, op};
use super::socket;

/// Longest line with which a client says where it wants to go, with its newline, in bytes.
const LINE_MAX: usize = 32;
const LINE_PREFIX: &[u8] = b"CONNECT ";
/// The shortest line that means something: the prefix, a digit, the newline. That much is read at once, the rest byte by byte:
/// what follows the line is not ours.
const LINE_MIN: usize = LINE_PREFIX.len() + 2;

const ERR_MALFORMED: &[u8] = b"ERR malformed request\n";
const ERR_REFUSED: &[u8] = b"ERR connection refused\n";

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client has not yet said which port it wants.
    Greeting,
    /// It has; the guest is not ready.
    Held,
    /// The guest is to be asked, or was asked if `delivered`.
    Requested { delivered: bool },
    /// Both sides agreed.
    Open,
}

/// What has become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Alive,
    /// Its socket has to be closed. It goes on until the guest has agreed.
    Linger,
    /// It is over; when `reset`, the guest has to be sent a RST.
    Gone { reset: bool },
}

/// Packets to be sent when there is room.
#[derive(Debug, Default)]
struct ToSay {
    request: bool,
    response: bool,
    credit: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Connection {
    pub host_port: u32,
    pub guest_port: u32,
    /// Whether the muxer has it in its queue of connections with something to send.
    pub queued: bool,
    /// What epoll watches the socket for.
    pub watched: Option<EventSet>,
    stage: Stage,
    stream: Option<UnixStream>,
    line: Vec<u8>,
    to_say: ToSay,

    /// Guest to host: what waits for the client, the credit granted, and how much of it was used, given back, and told so.
    outbox: Outbox,
    window: u32,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    announced: Wrapping<u32>,

    /// Host to guest: the guest's credit, how much of it we used, how much it gave back, and whether we asked for more.
    peer_window: u32,
    peer_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    credit_asked: bool,

    /// The client's socket may have bytes (or its end) to read.
    readable: bool,
    /// The client sends no more.
    client_eof: bool,
    /// The client takes no more.
    client_deaf: bool,
    /// The client is gone altogether: nothing is left to wait for on its socket.
    client_gone: bool,
    /// Flags of the SHUTDOWN that the guest sent, and of the one we sent.
    guest_shut: u32,
    our_shut: u32,
    /// The guest has forgotten the connection.
    guest_reset: bool,
    /// The socket's sending side was shut down.
    stream_shut: bool,
    /// A rule was broken or the socket failed: reset it.
    failed: bool,
}

impl Connection {
    /// A client that just connected; `window` is the credit that the guest will have, in bytes.
    pub fn from_client(stream: UnixStream, host_port: u32, window: u32) -> Self {
        Connection { stream: Some(stream), ..Self::new(host_port, 0, window, Stage::Greeting) }
    }

    /// The guest's own connection, of which the data is thrown away.
    pub fn from_guest(request: &Header, window: u32) -> Self {
        let mut conn = Self::new(request.dst_port, request.src_port, window, Stage::Open);
        conn.to_say.response = true;
        conn.take_credit(request);
        conn
    }

    fn new(host_port: u32, guest_port: u32, window: u32, stage: Stage) -> Self {
        Connection {
            host_port,
            guest_port,
            queued: false,
            watched: None,
            stage,
            stream: None,
            line: Vec::new(),
            to_say: ToSay::default(),
            outbox: Outbox::default(),
            window,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            peer_window: 0,
            peer_forwarded: Wrapping(0),
            sent: Wrapping(0),
            credit_asked: false,
            readable: false,
            client_eof: false,
            client_deaf: false,
            client_gone: false,
            guest_shut: 0,
            our_shut: 0,
            guest_reset: false,
            stream_shut: false,
            failed: false,
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The client's socket, as long as there is a use for it.
    pub fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// The credit granted to the guest, in bytes.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Whether the guest can have heard of this connection and not yet forgotten it.
    pub fn known_to_guest(&self) -> bool {
        matches!(self.stage, Stage::Requested { delivered: true } | Stage::Open) && !self.guest_reset
    }

    /// Whether it waits for nobody on the host: its place may be given to another when all are taken.
    pub fn is_lingering(&self) -> bool {
        self.stage == Stage::Open && (self.client_gone || self.our_shut == SHUTDOWN_BOTH)
    }

    /// Bytes held for the client.
    #[cfg(test)]
    pub fn buffered(&self) -> usize {
        self.outbox.len()
    }

    /// The connection is to be reset.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// The guest listens: ask it.
    pub fn request(&mut self) {
        self.stage = Stage::Requested { delivered: false };
        self.to_say.request = true;
    }

    /// epoll reports `events` on the client's socket.
    pub fn on_socket(&mut self, events: EventSet) {
        let over = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if self.stage != Stage::Open {
            if over {
                self.client_gone = true;
            } else if self.stage == Stage::Greeting {
                self.greet();
            }
            return;
        }
        if events.contains(EventSet::OUT) {
            self.flush();
        }
        if events.contains(EventSet::IN) {
            self.readable = true;
        }
        if over {
            // It would be reported again and again: the socket leaves epoll. What it still holds is read as credit allows.
            self.client_gone = true;
            self.readable = true;
            self.deafen();
        }
    }

    /// Reads the client's line. Called when the socket is readable.
    pub fn greet(&mut self) {
        let Some(mut stream) = self.stream.as_ref() else { return };
        loop {
            let want = LINE_MIN.saturating_sub(self.line.len()).max(1);
            let mut bytes = [0; LINE_MIN];
            match stream.read(bytes.get_mut(..want).unwrap_or_default()) {
                Ok(0) => {
                    self.client_gone = true;
                    return;
                }
                Ok(count) => self.line.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.client_gone = true;
                    return;
                }
            }
            if self.line.contains(&b'\n') {
                match parse_line(&self.line) {
                    Some(port) => {
                        self.guest_port = port;
                        self.stage = Stage::Held;
                    }
                    None => self.turn_away(ERR_MALFORMED),
                }
                self.line = Vec::new();
                return;
            }
            if self.line.len() >= LINE_MAX {
                self.turn_away(ERR_MALFORMED);
                return;
            }
        }
    }

    /// A packet of the guest for this connection. `whole` tells whether all the data that it announces is there.
    pub fn on_packet(&mut self, header: &Header, mut data: Buffers, whole: bool) {
        self.take_credit(header);
        match (self.stage, header.op) {
            (_, op::RST) => self.on_reset(),
            (Stage::Requested { .. }, op::RESPONSE) => self.on_response(),
            (Stage::Open, op::RW) if whole => self.on_data(&mut data),
            (Stage::Open, op::CREDIT_UPDATE) => {}
            (Stage::Open, op::CREDIT_REQUEST) => self.to_say.credit = true,
            (Stage::Open, op::SHUTDOWN) => self.on_shutdown(header.flags),
            _ => self.failed = true,
        }
    }

    fn take_credit(&mut self, header: &Header) {
        self.peer_window = header.buf_alloc;
        self.peer_forwarded = Wrapping(header.fwd_cnt);
    }

    /// Bytes that the guest can take now.
    fn credit(&self) -> u32 {
        self.peer_window.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    fn on_response(&mut self) {
        self.stage = Stage::Open;
        let line = format!("OK {}\n", self.host_port);
        // The socket is new and its buffer empty: it takes the line whole, or nobody is there to read it.
        match self.stream.as_ref().map(|mut stream| stream.write(line.as_bytes())) {
            Some(Ok(count)) if count == line.len() => {}
            _ => self.failed = true,
        }
    }

    fn on_reset(&mut self) {
        if self.stage != Stage::Open {
            self.turn_away(ERR_REFUSED);
        }
        self.guest_reset = true;
        self.guest_shut = SHUTDOWN_BOTH;
        self.to_say = ToSay::default();
        self.hang_up(Shutdown::Read);
    }

    fn on_shutdown(&mut self, flags: u32) {
        self.guest_shut |= flags & SHUTDOWN_BOTH;
        if self.guest_shut & SHUTDOWN_RCV != 0 {
            self.hang_up(Shutdown::Read);
        }
    }

    fn on_data(&mut self, data: &mut Buffers) {
        let held = (self.received - self.forwarded).0;
        let len = match u32::try_from(data.len()) {
            Ok(len) if len <= self.window.saturating_sub(held) && self.guest_shut & SHUTDOWN_SEND == 0 => len,
            _ => {
                self.failed = true;
                return;
            }
        };
        self.received += len;
        let Some(stream) = self.stream.as_ref().filter(|_| !self.client_deaf) else {
            self.forward(data.len());
            return;
        };
        if self.outbox.is_empty() {
            match socket::write(stream, data) {
                Ok(count) => self.forward(count),
                Err(_) => {
                    self.forward(data.len());
                    self.deafen();
                    return;
                }
            }
        }
        if data.len() > 0 {
            self.outbox.push(data);
            self.tell_credit();
        }
    }

    fn flush(&mut self) {
        let Some(stream) = self.stream.as_ref() else { return };
        match self.outbox.flush(stream) {
            Ok(count) => self.forward(count),
            Err(_) => self.deafen(),
        }
    }

    /// `count` bytes of the guest are off our hands.
    fn forward(&mut self, count: usize) {
        // At most the window, which is a u32.
        self.forwarded += u32::try_from(count).unwrap_or(u32::MAX);
        self.tell_credit();
    }

    /// Has the guest told of its credit when it believes that little of it is left, and is wrong.
    fn tell_credit(&mut self) {
        let believed_free = self.window.saturating_sub((self.received - self.announced).0);
        let sends = self.guest_shut & SHUTDOWN_SEND == 0;
        if sends && self.forwarded != self.announced && believed_free < self.window / 2 {
            self.to_say.credit = true;
        }
    }

    /// The client takes no more bytes: those that wait are lost, and those that come are thrown away.
    fn deafen(&mut self) {
        self.client_deaf = true;
        self.outbox.clear();
        self.forwarded = self.received;
    }

    fn turn_away(&mut self, line: &[u8]) {
        if let Some(mut stream) = self.stream.as_ref() {
            // Best effort: who does not read it is told by the end of the stream.
            let _ = stream.write(line);
        }
        self.client_gone = true;
    }

    fn hang_up(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            // Fails only when the client is gone, which epoll tells.
            let _ = stream.shutdown(how);
        }
    }

    /// Draws the consequences of what happened; to be called after every event.
    pub fn settle(&mut self) -> Fate {
        if self.stage != Stage::Open {
            if self.failed && !self.client_gone {
                self.turn_away(ERR_REFUSED);
            }
            let asked = self.stage == Stage::Requested { delivered: true };
            return match self.client_gone || self.failed {
                true => Fate::Gone { reset: asked && !self.guest_reset },
                false => Fate::Alive,
            };
        }
        if self.failed {
            return Fate::Gone { reset: !self.guest_reset };
        }
        let drained = self.guest_shut & SHUTDOWN_SEND != 0 && self.outbox.is_empty();
        if drained && !self.stream_shut {
            self.stream_shut = true;
            self.hang_up(Shutdown::Write);
        }
        if !(self.sending_is_over() && (drained || self.client_deaf)) {
            return Fate::Alive;
        }
        if self.guest_shut == SHUTDOWN_BOTH {
            return Fate::Gone { reset: !self.guest_reset };
        }
        if self.stream.is_some() { Fate::Linger } else { Fate::Alive }
    }

    /// Closes the socket. Bytes of the client that nobody will read are thrown away first: it would otherwise see ECONNRESET
    /// where the guest has ended the connection in good order.
    pub fn close(&mut self) {
        let Some(mut stream) = self.stream.take() else { return };
        self.client_eof = true;
        self.deafen();
        let orderly = !self.guest_reset && !self.failed || self.stage != Stage::Open;
        if orderly && stream.shutdown(Shutdown::Both).is_ok() {
            let mut scratch = [0; 8192];
            // A Unix socket holds a few hundred KiB at most, and no more can be added.
            for _ in 0..64 {
                match stream.read(&mut scratch) {
                    Ok(count) if count > 0 => {}
                    _ => break,
                }
            }
        }
    }

    /// What epoll has to watch the socket for; None to leave it alone.
    pub fn interest(&self) -> Option<EventSet> {
        if self.client_gone || self.stream.is_none() {
            return None;
        }
        let mut events = EventSet::empty();
        match self.stage {
            Stage::Greeting => events |= EventSet::IN,
            // A hang-up is always reported.
            Stage::Held | Stage::Requested { .. } => {}
            Stage::Open => {
                if !self.readable && !self.sending_is_over() {
                    events |= EventSet::IN;
                }
                if !self.outbox.is_empty() {
                    events |= EventSet::OUT;
                }
            }
        }
        Some(events)
    }

    /// Whether the host's side of the stream has ended, by the client's will or the guest's.
    fn sending_is_over(&self) -> bool {
        self.client_eof || self.guest_shut & SHUTDOWN_RCV != 0
    }

    /// The SHUTDOWN flags that the guest should have.
    fn shutdown_due(&self) -> u32 {
        if self.stage != Stage::Open || self.guest_reset {
            return 0;
        }
        let recv = if self.client_deaf { SHUTDOWN_RCV } else { 0 };
        let send = if self.client_eof { SHUTDOWN_SEND } else { 0 };
        recv | send
    }

    /// Whether there may be a packet to send.
    pub fn has_turn(&self) -> bool {
        self.to_say.request
            || self.to_say.response
            || self.to_say.credit
            || self.shutdown_due() & !self.our_shut != 0
            || self.may_read() && (self.credit() > 0 || !self.credit_asked)
    }

    fn may_read(&self) -> bool {
        self.stage == Stage::Open && self.readable && !self.sending_is_over() && self.stream.is_some()
    }

    /// The next packet for the guest, its data put into `room`. The context ids are left to the caller.
    pub fn next_packet(&mut self, room: Buffers) -> Option<Header> {
        let mut header = Header { op: op::CREDIT_UPDATE, ..Header::default() };
        if std::mem::take(&mut self.to_say.request) {
            self.stage = Stage::Requested { delivered: true };
            header.op = op::REQUEST;
        } else if std::mem::take(&mut self.to_say.response) {
            header.op = op::RESPONSE;
        } else if let Some((op, len)) = self.read(room) {
            header.op = op;
            header.len = len;
        } else if self.shutdown_due() & !self.our_shut != 0 {
            self.our_shut = self.shutdown_due();
            header.op = op::SHUTDOWN;
            header.flags = self.our_shut;
        } else if !self.to_say.credit {
            return None;
        }
        // Every packet tells the credit.
        self.to_say.credit = false;
        self.announced = self.forwarded;
        header.src_port = self.host_port;
        header.dst_port = self.guest_port;
        header.buf_alloc = self.window;
        header.fwd_cnt = self.forwarded.0;
        Some(header)
    }

    /// Reads from the client into `room`; the operation to send and how many bytes go with it.
    fn read(&mut self, mut room: Buffers) -> Option<(u16, u32)> {
        if !self.may_read() {
            return None;
        }
        let credit = self.credit();
        if credit == 0 {
            // Once only: a guest that answers without giving any would keep both sides busy.
            let asked = std::mem::replace(&mut self.credit_asked, true);
            return (!asked).then_some((op::CREDIT_REQUEST, 0));
        }
        room.truncate(usize::try_from(credit).unwrap_or(usize::MAX));
        match socket::read(self.stream.as_ref()?, &room) {
            Ok(Some(0)) => {
                self.readable = false;
                self.client_eof = true;
                None
            }
            Ok(Some(count)) => {
                // Less than there was room for: the socket is empty, or epoll will tell.
                self.readable = count == room.len() || self.client_gone;
                self.credit_asked = false;
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.sent += count;
                Some((op::RW, count))
            }
            Ok(None) => {
                self.readable = false;
                // epoll watches it no more.
                self.client_eof |= self.client_gone;
                None
            }
            Err(_) => {
                self.failed = true;
                None
            }
        }
    }
}

/// The port in a client's line.
fn parse_line(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(LINE_PREFIX)?.strip_suffix(b"\n")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
