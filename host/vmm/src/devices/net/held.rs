//! Receive buffers that the driver has given and no frame has filled yet.

use virtio_queue::DescriptorChain;

use super::chain::{self, Piece, Writer};
use crate::devices::QueueError;
use crate::memory::GuestMemory;

struct Chain {
    head: u16,
    bytes: usize,
    pieces: usize,
}

/// Chains taken from the available ring, in the driver's order. They are taken one by one until a frame fits, and stay
/// here when it does not: going back in the ring would mean reading them anew at each kick.
#[derive(Default)]
pub(super) struct Held {
    chains: Vec<Chain>,
    /// Those of all chains, one after the other.
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Held {
    /// Takes `chain`. False when it can carry nothing: it is malformed, or has not even room for `least` bytes.
    pub fn push(&mut self, chain: DescriptorChain<&GuestMemory>, least: usize, memory: &GuestMemory) -> bool {
        let head = chain.head_index();
        let before = self.pieces.len();
        match chain::append(chain, Writer::Device, memory, &mut self.pieces) {
            Some(bytes) if bytes >= least => {
                self.chains.push(Chain { head, bytes, pieces: self.pieces.len() - before });
                // At most a ring's worth of chains of less than 4 GiB each.
                self.bytes = self.bytes.saturating_add(bytes);
                true
            }
            _ => {
                self.pieces.truncate(before);
                false
            }
        }
    }

    /// How many chains are held.
    pub fn chains(&self) -> usize {
        self.chains.len()
    }

    /// How many bytes they hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of the chains a frame of `len` bytes takes; `None` when it does not fit. Without `mergeable` it has
    /// only the first.
    pub fn needed(&self, len: usize, mergeable: bool) -> Option<usize> {
        let mut room = 0usize;
        for (index, chain) in self.chains.iter().enumerate() {
            room = room.saturating_add(chain.bytes);
            if room >= len {
                return Some(index + 1);
            }
            if !mergeable {
                break;
            }
        }
        None
    }

    /// Writes `frame` into the first `count` chains, and lets go of these. Puts their heads with the bytes written into
    /// `used`.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when guest memory is not where it was.
    pub fn fill(
        &mut self,
        count: usize,
        mut frame: &[u8],
        memory: &GuestMemory,
        used: &mut Vec<(u16, u32)>,
    ) -> Result<(), QueueError> {
        used.clear();
        let mut pieces = self.pieces.as_slice();
        for chain in self.chains.drain(..count.min(self.chains.len())) {
            let Some((own, others)) = pieces.split_at_checked(chain.pieces) else { break };
            let Some((now, later)) = frame.split_at_checked(frame.len().min(chain.bytes)) else { break };
            chain::scatter(now, own, memory)?;
            // A frame is 64 KiB at most.
            used.push((chain.head, now.len() as u32));
            self.bytes = self.bytes.saturating_sub(chain.bytes);
            (pieces, frame) = (others, later);
        }
        let rest = pieces.len();
        self.pieces.drain(..self.pieces.len().saturating_sub(rest));
        Ok(())
    }
}
