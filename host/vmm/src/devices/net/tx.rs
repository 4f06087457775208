//! The transmit queue: from the guest to the tap.

use std::fs::File;
use std::io::Write;

use virtio_queue::{DescriptorChain, Queue, QueueT};

use super::chain::{self, Piece, Writer};
use super::header::{FRAME_MAX, FRAME_MIN};
use crate::devices::budget::Budget;
use crate::devices::{Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;

/// The second queue of a pair (virtio 1.2, 5.1.2) and the place where a frame is put together: a tap takes each in one write.
pub(super) struct TxQueue {
    queue: Queue,
    frame: Box<[u8]>,
    pieces: Vec<Piece>,
}

impl TxQueue {
    /// Around a queue that is ready.
    pub fn new(queue: Queue) -> Self {
        TxQueue { queue, frame: vec![0; FRAME_MAX].into_boxed_slice(), pieces: Vec::new() }
    }

    /// The queue itself.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Sends what waits, for one turn. Returns whether there may be more, of which the driver says nothing any more.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn serve(&mut self, tap: &File, memory: &GuestMemory, interrupt: &Interrupt) -> Result<bool, QueueError> {
        let mut budget = Budget::new();
        let mut rechecked = false;
        self.queue.disable_notification(memory)?;
        while !budget.is_spent() {
            let Some(chain) = next_chain(&mut self.queue, memory)? else {
                if !self.queue.enable_notification(memory)? {
                    notify(&mut self.queue, memory, interrupt)?;
                    return Ok(false);
                }
                if std::mem::replace(&mut rechecked, true) {
                    return Err(QueueError::Broken("net: an available ring that cannot be read".into()));
                }
                self.queue.disable_notification(memory)?;
                continue;
            };
            rechecked = false;
            let head = chain.head_index();
            budget.spend(self.send(chain, tap, memory)?);
            complete(&mut self.queue, memory, head, 0)?;
        }
        notify(&mut self.queue, memory, interrupt)?;
        Ok(true)
    }

    /// Writes the frame in `chain` to the tap; what is no frame, and what the tap does not take, is lost. Returns its
    /// length.
    fn send(
        &mut self,
        chain: DescriptorChain<&GuestMemory>,
        mut tap: &File,
        memory: &GuestMemory,
    ) -> Result<usize, QueueError> {
        self.pieces.clear();
        let Some(len) = chain::append(chain, Writer::Driver, memory, &mut self.pieces) else { return Ok(0) };
        let Some(frame) = self.frame.get_mut(..len).filter(|_| len >= FRAME_MIN) else { return Ok(0) };
        chain::gather(frame, &self.pieces, memory)?;
        // A tap that is full, down or gone, or a header that the kernel refuses: a wire says nothing of either.
        let _ = tap.write(frame);
        Ok(len)
    }
}
