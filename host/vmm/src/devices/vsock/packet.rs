//! Packets: the header of virtio 1.2, 5.10.6, and the descriptor chains that carry header and data.
//!
//! Drivers lay a packet out in one descriptor (Linux from 6.3 on) or in several; here the cut between header and data may be
//! anywhere. Each header is copied out of guest memory once, so that what was checked is what is used.

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::BS;
use vm_memory::{GuestMemory as _, VolatileSlice};

use crate::devices::QueueError;
use crate::memory::GuestMemory;

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 44;
/// Context id of the host (5.10.4).
pub(super) const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const TYPE_STREAM: u16 = 1;
/// SHUTDOWN flag: its sender receives no more.
pub(super) const SHUTDOWN_RCV: u32 = 1;
/// SHUTDOWN flag: its sender sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both SHUTDOWN flags.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

/// Operations (5.10.6).
pub(super) mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// No chain is longer than the queue (2.7.5.3.1), whatever an indirect table says.
const MAX_DESCRIPTORS: usize = 256;

/// struct virtio_vsock_hdr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of data that follow.
    pub len: u32,
    pub type_: u16,
    pub op: u16,
    pub flags: u32,
    /// Bytes that the sender of this packet buffers for the connection.
    pub buf_alloc: u32,
    /// Bytes that it has passed on so far, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// From the wire.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Header {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            type_: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// For the wire.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, &self.src_cid.to_le_bytes());
        put(&mut rest, &self.dst_cid.to_le_bytes());
        put(&mut rest, &self.src_port.to_le_bytes());
        put(&mut rest, &self.dst_port.to_le_bytes());
        put(&mut rest, &self.len.to_le_bytes());
        put(&mut rest, &self.type_.to_le_bytes());
        put(&mut rest, &self.op.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buf_alloc.to_le_bytes());
        put(&mut rest, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((head, tail)) = rest.split_first_chunk::<N>() else {
        return [0; N];
    };
    *rest = tail;
    *head
}

fn put(rest: &mut &mut [u8], field: &[u8]) {
    if let Some((head, tail)) = std::mem::take(rest).split_at_mut_checked(field.len()) {
        head.copy_from_slice(field);
        *rest = tail;
    }
}

/// A piece of guest memory.
pub(super) type Slice<'m> = VolatileSlice<'m, BS<'m, BitmapMmapRegion>>;

/// The buffers of a chain, in order, none of them empty.
#[derive(Debug, Clone)]
pub(super) struct Buffers<'m> {
    slices: Vec<Slice<'m>>,
    len: usize,
}

impl<'m> Buffers<'m> {
    /// The buffers of `chain`, which all have to be of the direction that the queue is for.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when the chain has no end or no beginning, a descriptor of the wrong direction, or one outside
    /// guest memory.
    pub fn new(
        memory: &'m GuestMemory,
        mut chain: DescriptorChain<&'m GuestMemory>,
        writable: bool,
    ) -> Result<Self, QueueError> {
        let mut buffers = Buffers { slices: Vec::with_capacity(2), len: 0 };
        // Whether the descriptors so far call for another one.
        let mut open = true;
        for desc in chain.by_ref().take(MAX_DESCRIPTORS) {
            if desc.is_write_only() != writable {
                return Err(broken("a descriptor of the wrong direction"));
            }
            open = desc.has_next();
            let len = usize::try_from(desc.len()).map_err(|_| broken("a descriptor too large"))?;
            if len > 0 {
                let slice = memory.get_slice(desc.addr(), len).map_err(|_| broken("a buffer outside guest memory"))?;
                buffers.slices.push(slice);
                // 256 times at most 4 GiB.
                buffers.len = buffers.len.saturating_add(len);
            }
        }
        if open {
            return Err(broken("a descriptor chain that does not end"));
        }
        Ok(buffers)
    }

    /// One piece of guest memory.
    #[cfg(test)]
    pub fn one(slice: Slice<'m>) -> Self {
        Buffers { len: slice.len(), slices: vec![slice] }
    }

    /// Bytes in all of them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Leaves the first `count` bytes away.
    pub fn skip(&mut self, count: usize) {
        let mut rest = count.min(self.len);
        self.len -= rest;
        let mut gone = 0;
        for slice in &mut self.slices {
            if rest < slice.len() {
                if let Ok(tail) = slice.offset(rest) {
                    *slice = tail;
                }
                break;
            }
            rest -= slice.len();
            gone += 1;
        }
        self.slices.drain(..gone);
    }

    /// Leaves away what is beyond the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut rest = count.min(self.len);
        self.len = rest;
        self.slices.retain_mut(|slice| {
            let keep = rest.min(slice.len());
            rest -= keep;
            if let Ok(head) = slice.subslice(0, keep) {
                *slice = head;
            }
            keep > 0
        });
    }

    /// The pieces.
    pub fn slices(&self) -> &[Slice<'m>] {
        &self.slices
    }

    /// Appends all bytes to `to`.
    pub fn append_to(&self, to: &mut Vec<u8>) {
        for slice in &self.slices {
            let start = to.len();
            to.resize(start + slice.len(), 0);
            slice.copy_to(&mut to[start..]);
        }
    }

    /// Fills `to` from the beginning; returns how many bytes there were.
    pub fn copy_to(&self, mut to: &mut [u8]) -> usize {
        let mut copied = 0;
        for slice in &self.slices {
            let count = slice.copy_to(to);
            copied += count;
            to = to.split_at_mut_checked(count).map_or(&mut [], |(_, rest)| rest);
        }
        copied
    }

    /// Writes `from` to the beginning.
    pub fn copy_from(&self, mut from: &[u8]) {
        for slice in &self.slices {
            let Some((now, later)) = from.split_at_checked(slice.len().min(from.len())) else {
                return;
            };
            slice.copy_from(now);
            from = later;
        }
    }
}

/// A packet from the guest.
#[derive(Debug)]
pub(super) struct TxPacket<'m> {
    pub header: Header,
    /// The data, or less of it than the header says when the chain ends before.
    pub data: Buffers<'m>,
}

impl<'m> TxPacket<'m> {
    /// Reads a chain of the tx queue.
    ///
    /// # Errors
    /// See [`Buffers::new`]; also for a chain too short for a header.
    pub fn new(memory: &'m GuestMemory, chain: DescriptorChain<&'m GuestMemory>) -> Result<Self, QueueError> {
        let mut data = Buffers::new(memory, chain, false)?;
        let mut bytes = [0; HEADER_LEN];
        if data.copy_to(&mut bytes) != HEADER_LEN {
            return Err(broken("a packet shorter than its header"));
        }
        let header = Header::parse(&bytes);
        data.skip(HEADER_LEN);
        data.truncate(usize::try_from(header.len).unwrap_or(usize::MAX));
        Ok(TxPacket { header, data })
    }

    /// Whether the chain holds all the data that the header announces.
    pub fn is_whole(&self) -> bool {
        u32::try_from(self.data.len()) == Ok(self.header.len)
    }
}

/// A buffer for a packet to the guest.
#[derive(Debug)]
pub(super) struct RxBuffer<'m> {
    all: Buffers<'m>,
}

impl<'m> RxBuffer<'m> {
    /// Takes a chain of the rx queue.
    ///
    /// # Errors
    /// See [`Buffers::new`]; also for one without room for a header and a byte of data, which could never carry a stream.
    pub fn new(memory: &'m GuestMemory, chain: DescriptorChain<&'m GuestMemory>) -> Result<Self, QueueError> {
        let all = Buffers::new(memory, chain, true)?;
        if all.len() <= HEADER_LEN {
            return Err(broken("a receive buffer without room for data"));
        }
        Ok(RxBuffer { all })
    }

    /// Around buffers of more than a header.
    #[cfg(test)]
    pub fn around(all: Buffers<'m>) -> Self {
        RxBuffer { all }
    }

    /// Hands out the part for data. The header still has to be written with [`WaitingHeader::write`].
    pub fn split(self) -> (WaitingHeader<'m>, Buffers<'m>) {
        let slices = self.all.slices.clone();
        let header = Buffers { slices, len: self.all.len };
        let mut data = self.all;
        data.skip(HEADER_LEN);
        (WaitingHeader(header), data)
    }
}

/// The place of a header in a receive buffer.
pub(super) struct WaitingHeader<'m>(Buffers<'m>);

impl WaitingHeader<'_> {
    /// Writes the header.
    pub fn write(&self, header: Header) {
        self.0.copy_from(&header.to_bytes());
    }
}

fn broken(what: &str) -> QueueError {
    QueueError::Broken(format!("vsock: {what}"))
}
