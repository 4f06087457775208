//! The receive queue: from the tap to the guest.

use std::fs::File;
use std::io::{ErrorKind, Read};

use virtio_queue::{Queue, QueueT};

use super::header::{self, F_MRG_RXBUF, FRAME_MAX, FRAME_MIN, HEADER_LEN};
use super::held::Held;
use crate::devices::budget::Budget;
use crate::devices::used::{complete_together, notify_since};
use crate::devices::{Interrupt, QueueError, complete, next_chain};
use crate::memory::GuestMemory;

/// What the queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// For a frame: until the tap is readable.
    Frame,
    /// For buffers, with a frame in hand: until the driver kicks.
    Buffers,
    /// For its turn, with a frame in hand: it has more to do, but so have others.
    Turn,
    /// The tap gives no frame any more.
    TapGone,
}

enum FromTap {
    Frame(usize),
    /// It was there, but is not for this driver.
    Lost,
    Empty,
    Gone,
}

/// Whether the buffers for a frame are gathered.
enum Gathered {
    /// They are, or no more can come.
    All,
    NoMore,
    OutOfTurn,
}

/// The first queue of a pair (virtio 1.2, 5.1.2) and the frame that is on its way into it.
pub(super) struct RxQueue {
    queue: Queue,
    features: u64,
    /// One byte longer than a frame, so that one that was cut off shows.
    frame: Box<[u8]>,
    /// The length of the frame in `frame`, if it waits there for buffers.
    waiting: Option<usize>,
    held: Held,
    used: Vec<(u16, u32)>,
}

impl RxQueue {
    /// Around a queue that is ready, of a driver that accepted `features`.
    pub fn new(queue: Queue, features: u64) -> Self {
        let frame = vec![0; FRAME_MAX + 1].into_boxed_slice();
        RxQueue { queue, features, frame, waiting: None, held: Held::default(), used: Vec::new() }
    }

    /// The queue itself.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Loses the frame that waits, if one does.
    pub fn forget_frame(&mut self) {
        self.waiting = None;
    }

    /// Moves frames from the tap to the guest, for one turn.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn serve(&mut self, tap: &File, memory: &GuestMemory, interrupt: &Interrupt) -> Result<Next, QueueError> {
        let since = self.queue.next_used();
        self.queue.disable_notification(memory)?;
        let next = self.move_frames(tap, memory)?;
        notify_since(&self.queue, memory, interrupt, since)?;
        Ok(next)
    }

    fn move_frames(&mut self, tap: &File, memory: &GuestMemory) -> Result<Next, QueueError> {
        let mut budget = Budget::new();
        while !budget.is_spent() {
            let from_tap = self.waiting.take().map_or_else(|| self.read(tap), FromTap::Frame);
            let len = match from_tap {
                FromTap::Frame(len) => len,
                FromTap::Lost => {
                    budget.spend(0);
                    continue;
                }
                FromTap::Empty => return Ok(Next::Frame),
                FromTap::Gone => return Ok(Next::TapGone),
            };
            let next = match self.gather(len, &mut budget, memory)? {
                Gathered::All => {
                    self.deliver(len, memory)?;
                    budget.spend(len);
                    continue;
                }
                Gathered::NoMore => Next::Buffers,
                Gathered::OutOfTurn => Next::Turn,
            };
            self.waiting = Some(len);
            return Ok(next);
        }
        Ok(Next::Frame)
    }

    fn read(&mut self, mut tap: &File) -> FromTap {
        match tap.read(&mut self.frame) {
            Ok(len) if self.suits_the_driver(len) => FromTap::Frame(len),
            Ok(_) => FromTap::Lost,
            Err(err) => match err.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => FromTap::Empty,
                // The tap throws a frame away for which the header has no words.
                ErrorKind::InvalidInput => FromTap::Lost,
                // Any other error would come again at once, and again.
                _ => FromTap::Gone,
            },
        }
    }

    /// Whether the `len` bytes from the tap are a whole frame that the driver can be given.
    fn suits_the_driver(&mut self, len: usize) -> bool {
        let frame = self.frame.get_mut(..len).unwrap_or_default();
        (FRAME_MIN..=FRAME_MAX).contains(&len) && header::adapt(frame, self.features)
    }

    /// Takes chains from the driver until they have room for `len` bytes; without F_MRG_RXBUF, one chain. What can
    /// carry no frame goes back unused.
    fn gather(&mut self, len: usize, budget: &mut Budget, memory: &GuestMemory) -> Result<Gathered, QueueError> {
        // Of several chains, the first one holds the header (5.1.6.3.1).
        let least = if self.is_mergeable() { HEADER_LEN } else { FRAME_MIN };
        let mut rechecked = false;
        while !self.has_gathered(len) {
            if budget.is_spent() {
                return Ok(Gathered::OutOfTurn);
            }
            let Some(chain) = next_chain(&mut self.queue, memory)? else {
                // The driver has to give buffers first, and to say so.
                if !self.queue.enable_notification(memory)? {
                    return Ok(Gathered::NoMore);
                }
                if std::mem::replace(&mut rechecked, true) {
                    return Err(QueueError::Broken("net: an available ring that cannot be read".into()));
                }
                continue;
            };
            rechecked = false;
            let head = chain.head_index();
            if !self.held.push(chain, least, memory) {
                complete(&mut self.queue, memory, head, 0)?;
                budget.spend(0);
            }
        }
        Ok(Gathered::All)
    }

    fn has_gathered(&self, len: usize) -> bool {
        let enough = if self.is_mergeable() { self.held.bytes() >= len } else { self.held.chains() > 0 };
        // A driver has no more chains than the queue has descriptors. One that gives the same chain again and again
        // must not have the device remember them all.
        enough || self.held.chains() >= usize::from(self.queue.size())
    }

    /// Puts the frame of `len` bytes into the chains held. One for which they are too small is lost, and they stay for
    /// the next.
    fn deliver(&mut self, len: usize, memory: &GuestMemory) -> Result<(), QueueError> {
        let Some(count) = self.held.needed(len, self.is_mergeable()) else { return Ok(()) };
        let Some(frame) = self.frame.get_mut(..len) else { return Ok(()) };
        // At most as many as there are descriptors.
        header::set_num_buffers(frame, u16::try_from(count).unwrap_or(u16::MAX));
        self.held.fill(count, frame, memory, &mut self.used)?;
        complete_together(&mut self.queue, memory, &self.used)
    }

    fn is_mergeable(&self) -> bool {
        self.features & F_MRG_RXBUF != 0
    }
}
