//! What requests do to the file.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, fallocate};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use virtiofsd::file_traits::FileReadWriteAtVolatile as _;
use vm_memory::Bytes as _;

use super::SECTOR;
use super::chain::{Pieces, Request, Slice};
use super::persist::{BlkState, RANGE_SECTORS_MAX, RANGES_MAX};
use crate::memory::GuestMemory;

/// Most data of one request. Linux asks for 1.25 MiB at most unless its root says otherwise; a guest that asks for more
/// would keep the thread from noticing a reset.
const DATA_MAX: u64 = 64 << 20;
/// struct virtio_blk_req as far as the data: type, reserved, sector.
const HEADER_LEN: usize = 16;
/// struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags.
const RANGE_LEN: usize = 16;

/// Why a request is not done, as the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It breaks the rules, or the host failed.
    Io,
    /// The device does not do that.
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        // For whoever looks for the reason; by default it is not logged, as a guest can ask again without end.
        log::debug!("blk: {error}");
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Refusal::Unsupported,
            _ => Refusal::Io,
        }
    }
}

/// The file, and what is known of it.
pub(super) struct Disk {
    file: File,
    state: BlkState,
}

impl Disk {
    /// `file` must be open for writing unless `state` says that nothing is written.
    pub fn new(file: File, state: BlkState) -> Self {
        Disk { file, state }
    }

    /// Carries out the request in `chain`. Returns the number of bytes written into it; 0 where there is no place for a
    /// status. With `write_through` what is written has reached the disk when this returns.
    pub fn answer(&self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory, write_through: bool) -> u32 {
        let Some(mut request) = Request::of(chain, memory) else { return 0 };
        let (written, status) = match self.carry_out(&mut request, memory, write_through) {
            Ok(written) => (written, VIRTIO_BLK_S_OK),
            Err(Refusal::Io) => (0, VIRTIO_BLK_S_IOERR),
            Err(Refusal::Unsupported) => (0, VIRTIO_BLK_S_UNSUPP),
        };
        match memory.write_obj(status as u8, request.status) {
            Ok(()) => u32::try_from(written).unwrap_or(u32::MAX).saturating_add(1),
            Err(_) => 0,
        }
    }

    fn carry_out(&self, request: &mut Request, memory: &GuestMemory, write_through: bool) -> Result<u64, Refusal> {
        let mut header = [0; HEADER_LEN];
        request.from_driver.read(&mut header, memory).ok_or(Refusal::Io)?;
        let (kind, sector) = (word(&header, 0), u64::from(word(&header, 8)) | u64::from(word(&header, 12)) << 32);
        match kind {
            VIRTIO_BLK_T_IN => self.read(&request.to_driver, sector, memory),
            VIRTIO_BLK_T_OUT => {
                self.write(&request.from_driver, sector, memory)?;
                self.settle(write_through)
            }
            VIRTIO_BLK_T_FLUSH => self.settle(true),
            VIRTIO_BLK_T_GET_ID => {
                request.to_driver.write(&self.state.id(), memory).map(|len| len as u64).ok_or(Refusal::Io)
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if !self.state.read_only => {
                self.clear(kind, &mut request.from_driver, memory)?;
                self.settle(write_through)
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn settle(&self, flush: bool) -> Result<u64, Refusal> {
        if flush && !self.state.read_only {
            self.file.sync_data()?;
        }
        Ok(0)
    }

    /// Where in the file so much data is, if it is whole sectors and all of them are there.
    fn place(&self, sector: u64, bytes: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(bytes / SECTOR).ok_or(Refusal::Io)?;
        if !bytes.is_multiple_of(SECTOR) || end > self.state.capacity {
            return Err(Refusal::Io);
        }
        sector.checked_mul(SECTOR).ok_or(Refusal::Io)
    }

    fn read(&self, to: &Pieces, sector: u64, memory: &GuestMemory) -> Result<u64, Refusal> {
        let bytes = to.bytes();
        let transfer = |slices: &[&Slice<'_>], offset| self.file.read_vectored_at_volatile(slices, offset, None);
        self.transfer(to, sector, memory, transfer).map(|()| bytes)
    }

    fn write(&self, from: &Pieces, sector: u64, memory: &GuestMemory) -> Result<(), Refusal> {
        if self.state.read_only {
            return Err(Refusal::Io);
        }
        let transfer = |slices: &[&Slice<'_>], offset| self.file.write_vectored_at_volatile(slices, offset, None);
        self.transfer(from, sector, memory, transfer)
    }

    /// Has `transfer` move all of the data, in as many steps as it takes.
    fn transfer(
        &self,
        data: &Pieces,
        sector: u64,
        memory: &GuestMemory,
        transfer: impl Fn(&[&Slice<'_>], u64) -> io::Result<usize>,
    ) -> Result<(), Refusal> {
        let bytes = data.bytes();
        let mut offset = self.place(sector, bytes)?;
        if bytes > DATA_MAX {
            return Err(Refusal::Io);
        }
        let mut left = data.slices(memory).ok_or(Refusal::Io)?;
        while !left.is_empty() {
            let done = match transfer(&left.iter().collect::<Vec<_>>(), offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The file has become shorter.
                Ok(0) => return Err(Refusal::Io),
                done => done?,
            };
            offset = offset.checked_add(done as u64).ok_or(Refusal::Io)?;
            left = without(left, done).ok_or(Refusal::Io)?;
        }
        Ok(())
    }

    /// Discards what the ranges name, or writes zeroes over it (5.2.6.2). All are checked before the first is touched.
    fn clear(&self, kind: u32, ranges: &mut Pieces, memory: &GuestMemory) -> Result<(), Refusal> {
        let bytes = usize::try_from(ranges.bytes()).map_err(|_| Refusal::Io)?;
        if !bytes.is_multiple_of(RANGE_LEN) || bytes > RANGES_MAX * RANGE_LEN {
            return Err(Refusal::Io);
        }
        let mut places = Vec::with_capacity(bytes / RANGE_LEN);
        for _ in 0..bytes / RANGE_LEN {
            let mut range = [0; RANGE_LEN];
            ranges.read(&mut range, memory).ok_or(Refusal::Io)?;
            let sector = u64::from(word(&range, 0)) | u64::from(word(&range, 4)) << 32;
            let (sectors, flags) = (word(&range, 8), word(&range, 12));
            let unmap = match (kind, flags) {
                (VIRTIO_BLK_T_DISCARD, 0) => true,
                (VIRTIO_BLK_T_WRITE_ZEROES, 0) => false,
                (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => true,
                _ => return Err(Refusal::Unsupported),
            };
            if sectors > RANGE_SECTORS_MAX {
                return Err(Refusal::Io);
            }
            let length = u64::from(sectors) * SECTOR;
            places.push((self.place(sector, length)?, length, unmap));
        }
        for (offset, length, unmap) in places.into_iter().filter(|(_, length, _)| *length > 0) {
            self.clear_range(kind, offset, length, unmap)?;
        }
        Ok(())
    }

    fn clear_range(&self, kind: u32, offset: u64, length: u64, unmap: bool) -> Result<(), Refusal> {
        if unmap {
            let punched = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length);
            match punched {
                Ok(()) => return Ok(()),
                // To give the place back is a wish; that there are zeroes afterwards is not.
                Err(_) if kind == VIRTIO_BLK_T_WRITE_ZEROES => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        let zeroed = fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, length);
        Ok(zeroed.map_err(io::Error::from)?)
    }
}

/// What is left of `slices` after the first `done` bytes; `None` where there were not as many.
fn without(slices: Vec<Slice<'_>>, mut done: usize) -> Option<Vec<Slice<'_>>> {
    let mut left = Vec::with_capacity(slices.len());
    for slice in slices {
        let now = slice.len().min(done);
        done -= now;
        if now < slice.len() {
            left.push(slice.offset(now).ok()?);
        }
    }
    (done == 0).then_some(left)
}

/// The little-endian word at `offset`; zero where there is none.
fn word(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    word.copied().map_or(0, u32::from_le_bytes)
}
