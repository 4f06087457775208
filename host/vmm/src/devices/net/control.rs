//! The control queue (virtio 1.3, 5.1.6.5): the driver says how many queue pairs it uses. Every other command is refused: the device offers
//! nothing that one could be about.

use virtio_bindings::virtio_net as net;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{self, Piece};
use crate::devices::{Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;

/// A driver sends one command at a time.
pub(super) const QUEUE_SIZE: u16 = 16;
/// Class, command and the number of pairs.
const PAIRS_SET_LEN: usize = 4;
const CLASS: u8 = net::VIRTIO_NET_CTRL_MQ as u8;
const PAIRS_SET: u8 = net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8;
const OK: u8 = net::VIRTIO_NET_OK as u8;
const ERR: u8 = net::VIRTIO_NET_ERR as u8;

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: the first so many pairs are used.
    SetPairs(u16),
    /// What the device does not know.
    Other,
}

/// A chain that is to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    head: u16,
    pub request: Request,
    /// Where the answer goes; none in a chain that is no command.
    ack: Option<GuestAddress>,
}

/// The queue after those of all pairs.
pub(super) struct ControlQueue {
    queue: Queue,
    kick: EventFd,
    /// Taken from the ring and not answered yet: its time has not come.
    held: Option<Command>,
    readable: Vec<Piece>,
    writable: Vec<Piece>,
}

impl ControlQueue {
    /// Around a queue that is ready.
    pub fn new(queue: Queue, kick: EventFd) -> Self {
        ControlQueue { queue, kick, held: None, readable: Vec::new(), writable: Vec::new() }
    }

    /// Readable when the driver has kicked.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// How many commands are answered before others have their turn.
    pub fn turn(&self) -> u16 {
        self.queue.size()
    }

    /// The next command, the one that was put back first; nothing when the driver has to send one, and say so.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn next(&mut self, memory: &GuestMemory) -> Result<Option<Command>, QueueError> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        for _ in 0..2 {
            if let Some(chain) = next_chain(&mut self.queue, memory)? {
                let head = chain.head_index();
                let (request, ack) = read(chain, &mut self.readable, &mut self.writable, memory)?;
                return Ok(Some(Command { head, request, ack }));
            }
            if !self.queue.enable_notification(memory)? {
                return Ok(None);
            }
        }
        Err(QueueError::Broken("net: an available ring that cannot be read".into()))
    }

    /// Gives a command back that cannot be answered yet. It is the next one again.
    pub fn put_back(&mut self, command: Command) {
        self.held = Some(command);
    }

    /// Answers a command: it was carried out, or not.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn answer(&mut self, command: Command, done: bool, memory: &GuestMemory) -> Result<(), QueueError> {
        if let Some(ack) = command.ack {
            let answer = if done { OK } else { ERR };
            memory.write_obj(answer, ack).map_err(virtio_queue::Error::GuestMemory)?;
        }
        complete(&mut self.queue, memory, command.head, u32::from(command.ack.is_some()))
    }

    /// Interrupts the driver if it waits for answers.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn notify(&mut self, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), QueueError> {
        notify(&mut self.queue, memory, interrupt)
    }
}

/// What the chain asks for, and where the answer goes.
fn read(
    chain: DescriptorChain<&GuestMemory>,
    readable: &mut Vec<Piece>,
    writable: &mut Vec<Piece>,
    memory: &GuestMemory,
) -> Result<(Request, Option<GuestAddress>), QueueError> {
    let Some(len) = chain::split(chain, memory, readable, writable) else { return Ok((Request::Other, None)) };
    let mut bytes = [0; PAIRS_SET_LEN];
    chain::gather(&mut bytes, readable, memory)?;
    let request = match bytes {
        [CLASS, PAIRS_SET, low, high] if len == PAIRS_SET_LEN => Request::SetPairs(u16::from_le_bytes([low, high])),
        _ => Request::Other,
    };
    Ok((request, writable.first().map(|(address, _)| *address)))
}
