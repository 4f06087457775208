//! Descriptor chains as stretches of guest memory, looked at once: what was checked is what is used, whatever the
//! driver writes into its descriptors meanwhile.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _};

use crate::devices::QueueError;
use crate::memory::GuestMemory;

/// No chain is longer than the queue (2.7.5.3.1), whatever an indirect table says.
const MAX_DESCRIPTORS: usize = 256;

/// A stretch of guest memory that is there: its address and length.
pub(super) type Piece = (GuestAddress, usize);

/// Which side writes into a chain's buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The driver: the transmit queue.
    Driver,
    /// The device: the receive queue.
    Device,
}

/// Appends the buffers of `chain` to `pieces`, without the empty ones. Returns how many bytes they are; `None`, and
/// nothing appended, for a chain that has no end, or a buffer of the other direction or outside guest memory.
pub(super) fn append(
    chain: DescriptorChain<&GuestMemory>,
    writer: Writer,
    memory: &GuestMemory,
    pieces: &mut Vec<Piece>,
) -> Option<usize> {
    let before = pieces.len();
    let bytes = append_all(chain, writer, memory, pieces);
    if bytes.is_none() {
        pieces.truncate(before);
    }
    bytes
}

fn append_all(
    mut chain: DescriptorChain<&GuestMemory>,
    writer: Writer,
    memory: &GuestMemory,
    pieces: &mut Vec<Piece>,
) -> Option<usize> {
    let mut bytes = 0usize;
    // Whether the descriptors so far call for another one. The iterator just ends at one that cannot be read.
    let mut open = true;
    for descriptor in chain.by_ref().take(MAX_DESCRIPTORS) {
        if descriptor.is_write_only() != (writer == Writer::Device) {
            return None;
        }
        open = descriptor.has_next();
        let len = usize::try_from(descriptor.len()).ok()?;
        if len > 0 {
            memory.get_slice(descriptor.addr(), len).ok()?;
            pieces.push((descriptor.addr(), len));
            bytes = bytes.checked_add(len)?;
        }
    }
    (!open).then_some(bytes)
}

/// Takes apart a chain of which the driver writes the first part and the device the second: `readable` and `writable` become its buffers,
/// without the empty ones. Returns how many bytes the first part is; `None` for a chain that has no end, buffers in another order, or one
/// outside guest memory.
pub(super) fn split(
    mut chain: DescriptorChain<&GuestMemory>,
    memory: &GuestMemory,
    readable: &mut Vec<Piece>,
    writable: &mut Vec<Piece>,
) -> Option<usize> {
    readable.clear();
    writable.clear();
    let mut bytes = 0usize;
    let (mut open, mut second) = (true, false);
    for descriptor in chain.by_ref().take(MAX_DESCRIPTORS) {
        if second && !descriptor.is_write_only() {
            return None;
        }
        second = descriptor.is_write_only();
        open = descriptor.has_next();
        let len = usize::try_from(descriptor.len()).ok()?;
        if len == 0 {
            continue;
        }
        memory.get_slice(descriptor.addr(), len).ok()?;
        if second {
            writable.push((descriptor.addr(), len));
        } else {
            readable.push((descriptor.addr(), len));
            bytes = bytes.checked_add(len)?;
        }
    }
    (!open).then_some(bytes)
}

/// Copies the beginning of `pieces` into `to`, as much as there is.
///
/// # Errors
/// [`QueueError::Broken`] when a piece is not in guest memory.
pub(super) fn gather(mut to: &mut [u8], pieces: &[Piece], memory: &GuestMemory) -> Result<(), QueueError> {
    for (address, len) in pieces {
        let count = to.len().min(*len);
        let Some((now, later)) = to.split_at_mut_checked(count) else { break };
        if now.is_empty() {
            break;
        }
        memory.read_slice(now, *address).map_err(virtio_queue::Error::GuestMemory)?;
        to = later;
    }
    Ok(())
}

/// Copies `from` into the beginning of `pieces`, as much as fits.
///
/// # Errors
/// [`QueueError::Broken`] when a piece is not in guest memory.
pub(super) fn scatter(mut from: &[u8], pieces: &[Piece], memory: &GuestMemory) -> Result<(), QueueError> {
    for (address, len) in pieces {
        let Some((now, later)) = from.split_at_checked(from.len().min(*len)) else { break };
        if now.is_empty() {
            break;
        }
        memory.write_slice(now, *address).map_err(virtio_queue::Error::GuestMemory)?;
        from = later;
    }
    Ok(())
}
