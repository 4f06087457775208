//! Chains that are given back together: virtio-queue shows each one by itself, but a driver that finds the first part
//! of a received frame takes the others at once, and the frame for broken if they are not there yet.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Interrupt, QueueError};
use crate::memory::GuestMemory;

/// Offset of the entries in either ring (virtio 1.2, 2.7.6 and 2.7.8): after flags and idx.
const ENTRIES: u64 = 4;
/// Offset of idx.
const INDEX: u64 = 2;
const USED_ENTRY: u64 = 8;
const AVAIL_ENTRY: u64 = 2;

/// Gives chains back, heads with the bytes written to each, in one step (2.7.8.2: idx is updated once).
///
/// # Errors
/// [`QueueError::Broken`] when they are more than the queue holds, or a head or the used ring is not valid.
pub fn complete_together(queue: &mut Queue, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), QueueError> {
    let size = queue.size();
    if used.len() > usize::from(size) {
        return Err(QueueError::Broken("more buffers used than there are".into()));
    }
    let mut next = queue.next_used();
    for (head, written) in used {
        if *head >= size {
            return Err(virtio_queue::Error::InvalidDescriptorIndex.into());
        }
        let slot = next.checked_rem(size).unwrap_or(0);
        let entry = [u32::from(*head).to_le(), written.to_le()];
        let address = at(queue.used_ring(), ENTRIES + USED_ENTRY * u64::from(slot))?;
        memory.write_obj(entry, address).map_err(virtio_queue::Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    let index = at(queue.used_ring(), INDEX)?;
    // After the entries and what is in the buffers.
    Ok(memory.store(next.to_le(), index, Ordering::Release).map_err(virtio_queue::Error::GuestMemory)?)
}

/// Interrupts the driver if it asked to be told of a buffer that was used after `since`, a [`QueueT::next_used`] of
/// before (2.7.7.2). For queues on which [`complete_together`] is used: `needs_notification` does not count what that
/// gave back.
///
/// # Errors
/// [`QueueError::Broken`] for a ring that is not one, [`QueueError::Signal`] when the irqfd fails.
pub fn notify_since(queue: &Queue, memory: &GuestMemory, interrupt: &Interrupt, since: u16) -> Result<(), QueueError> {
    let used = Wrapping(queue.next_used());
    if used.0 == since {
        return Ok(());
    }
    // The used index must be there before it is seen what the driver waits for: it does the two in the other order.
    fence(Ordering::SeqCst);
    if queue.event_idx_enabled() {
        let address = at(queue.avail_ring(), ENTRIES + AVAIL_ENTRY * u64::from(queue.size()))?;
        let event: u16 = memory.load(address, Ordering::Relaxed).map_err(virtio_queue::Error::GuestMemory)?;
        if used - Wrapping(u16::from_le(event)) - Wrapping(1) >= used - Wrapping(since) {
            return Ok(());
        }
    }
    Ok(interrupt.signal_queue()?)
}

fn at(ring: u64, offset: u64) -> Result<GuestAddress, QueueError> {
    Ok(ring.checked_add(offset).map(GuestAddress).ok_or(virtio_queue::Error::AddressOverflow)?)
}

#[cfg(test)]
mod tests {
    use virtio_queue::mock::MockSplitQueue;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::memory;

    const SIZE: u16 = 16;

    fn signals(interrupt: &Interrupt) -> u64 {
        interrupt.irq().read().unwrap_or(0)
    }

    #[test]
    fn chains_are_shown_together_and_wrap_around() {
        let memory = memory::allocate(64).unwrap();
        let mock = MockSplitQueue::new(memory.as_ref(), SIZE);
        let mut queue: Queue = mock.create_queue().unwrap();
        queue.set_next_used(u16::MAX - 1);
        complete_together(&mut queue, &memory, &[(3, 10), (15, 20), (0, u32::MAX)]).unwrap();
        assert_eq!((queue.next_used(), u16::from_le(mock.used().idx().load())), (1, 1));
        for (slot, head, len) in [(14, 3, 10), (15, 15, 20), (0, 0, u32::MAX)] {
            let entry = mock.used().ring().ref_at(slot).unwrap().load();
            assert_eq!((entry.id(), entry.len()), (head, len));
        }
        complete_together(&mut queue, &memory, &[]).unwrap();
        assert_eq!(queue.next_used(), 1);
    }

    #[test]
    fn what_cannot_be_given_back_breaks_the_queue() {
        let memory = memory::allocate(64).unwrap();
        let mut queue: Queue = MockSplitQueue::new(memory.as_ref(), SIZE).create_queue().unwrap();
        for used in [vec![(SIZE, 0)], vec![(0, 0), (u16::MAX, 0)], vec![(0, 0); 17]] {
            assert!(matches!(complete_together(&mut queue, &memory, &used), Err(QueueError::Broken(_))));
        }
        queue.set_used_ring_address(Some(u32::MAX - 3), Some(u32::MAX));
        assert!(complete_together(&mut queue, &memory, &[(0, 0)]).is_err());
        queue.set_event_idx(true);
        queue.set_avail_ring_address(Some(64 << 20), Some(0));
        queue.set_next_used(1);
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        assert!(notify_since(&queue, &memory, &interrupt, 0).is_err());
    }

    #[test]
    fn the_driver_is_interrupted_when_it_asked_for_one_of_them() {
        let memory = memory::allocate(64).unwrap();
        let mut queue: Queue = MockSplitQueue::new(memory.as_ref(), SIZE).create_queue().unwrap();
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let notify = |queue: &mut Queue, since, used, event: u16| {
            queue.set_next_used(used);
            let place = GuestAddress(queue.avail_ring() + ENTRIES + AVAIL_ENTRY * u64::from(SIZE));
            memory.write_obj(event, place).unwrap();
            notify_since(queue, &memory, &interrupt, since).unwrap();
            signals(&interrupt)
        };
        assert_eq!(notify(&mut queue, 5, 5, 0), 0, "nothing was used");
        assert_eq!(notify(&mut queue, 5, 9, 100), 1, "without VIRTIO_F_EVENT_IDX");
        queue.set_event_idx(true);
        for (event, wanted) in [(4, 0), (5, 1), (8, 1), (9, 0), (100, 0)] {
            assert_eq!(notify(&mut queue, 5, 9, event), wanted, "{event}");
        }
        assert_eq!(notify(&mut queue, u16::MAX, 2, 0), 1);
        assert_eq!(notify(&mut queue, u16::MAX, 2, u16::MAX - 1), 0);
    }
}
