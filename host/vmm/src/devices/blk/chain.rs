//! A request's descriptor chain as stretches of guest memory, looked at once: what was checked is what is used, whatever
//! the driver writes into its descriptors meanwhile. How the driver has cut the request into descriptors does not matter
//! (virtio 1.2, 2.7.4).

use virtio_queue::DescriptorChain;
use vm_memory::bitmap::MS;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, VolatileSlice};

use super::QUEUE_SIZE;
use crate::memory::GuestMemory;

/// A piece of guest memory as system calls take it.
pub(super) type Slice<'m> = VolatileSlice<'m, MS<'m, GuestMemory>>;

/// Stretches of guest memory that are there.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<(GuestAddress, usize)>);

impl Pieces {
    /// How many bytes they are.
    pub fn bytes(&self) -> u64 {
        // No chain has more than 2^32 bytes.
        self.0.iter().fold(0, |sum: u64, (_, len)| sum.saturating_add(*len as u64))
    }

    /// Cuts off the first `count` bytes; `None`, and nothing changed, when there are fewer.
    fn cut_front(&mut self, count: usize) -> Option<Pieces> {
        if self.bytes() < count as u64 {
            return None;
        }
        let (mut front, mut rest, mut left) = (Vec::new(), Vec::new(), count);
        for (address, len) in self.0.drain(..) {
            let now = len.min(left);
            left -= now;
            if now > 0 {
                front.push((address, now));
            }
            if now < len {
                rest.push((GuestAddress(address.0.saturating_add(now as u64)), len - now));
            }
        }
        self.0 = rest;
        Some(Pieces(front))
    }

    /// Cuts off the last byte; `None` when there is none.
    fn cut_last(&mut self) -> Option<GuestAddress> {
        let (address, len) = self.0.pop()?;
        let before = len.checked_sub(1)?;
        if before > 0 {
            self.0.push((address, before));
        }
        Some(GuestAddress(address.0.checked_add(before as u64)?))
    }

    /// Copies the first bytes to `to` and cuts them off; `None` when there are fewer.
    pub fn read(&mut self, to: &mut [u8], memory: &GuestMemory) -> Option<()> {
        let mut to = to;
        for (address, len) in self.cut_front(to.len())?.0 {
            let (now, later) = to.split_at_mut_checked(len)?;
            memory.read_slice(now, address).ok()?;
            to = later;
        }
        Some(())
    }

    /// Copies `from` to their beginning, as much as fits. Returns how much that was.
    pub fn write(&self, from: &[u8], memory: &GuestMemory) -> Option<usize> {
        let mut left = from;
        for (address, len) in &self.0 {
            let (now, later) = left.split_at_checked(left.len().min(*len))?;
            memory.write_slice(now, *address).ok()?;
            left = later;
        }
        Some(from.len() - left.len())
    }

    /// All of them; `None` when one is not in guest memory.
    pub fn slices<'m>(&self, memory: &'m GuestMemory) -> Option<Vec<Slice<'m>>> {
        self.0.iter().map(|(address, len)| memory.get_slice(*address, *len).ok()).collect()
    }
}

/// The parts of a request.
#[derive(Debug)]
pub(super) struct Request {
    /// What the driver wrote: the header, then data.
    pub from_driver: Pieces,
    /// What the device writes before the status.
    pub to_driver: Pieces,
    /// Where the status goes: the last byte that the device may write.
    pub status: GuestAddress,
}

impl Request {
    /// Takes `chain` apart. `None` for one that has no end or no place for a status, that reaches outside guest memory, or
    /// in which the device's part is not the last (2.7.4.2).
    pub fn of(mut chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> Option<Self> {
        let (mut from_driver, mut to_driver) = (Pieces::default(), Pieces::default());
        // Whether the descriptors so far call for another one. The iterator just ends at one that cannot be read.
        let mut open = true;
        for descriptor in chain.by_ref().take(usize::from(QUEUE_SIZE)) {
            open = descriptor.has_next();
            let len = usize::try_from(descriptor.len()).ok()?;
            if !descriptor.is_write_only() && !to_driver.0.is_empty() {
                return None;
            }
            if len == 0 {
                continue;
            }
            memory.get_slice(descriptor.addr(), len).ok()?;
            let pieces = if descriptor.is_write_only() { &mut to_driver } else { &mut from_driver };
            pieces.0.push((descriptor.addr(), len));
        }
        if open {
            return None;
        }
        let status = to_driver.cut_last()?;
        Some(Request { from_driver, to_driver, status })
    }
}
