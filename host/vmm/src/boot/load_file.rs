//! Reading files into guest memory.
//!
//! Mapping their pages copy-on-write instead was tried: the kernel patches nearly every page of its text while it boots, and taking
//! a fault for each costs more than the copy saves (docs/performance.md).

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;

/// Loads `size` bytes at `offset` of `file` to guest physical `address`.
///
/// # Errors
/// InvalidInput when the bytes are not all inside guest memory, UnexpectedEof when the file is too short, or what the system says.
pub fn load(memory: &GuestMemory, address: u64, file: &mut File, offset: u64, size: u64) -> io::Result<()> {
    let end = offset.checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
    if file.metadata()?.len() < end {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    file.seek(SeekFrom::Start(offset))?;
    memory.read_exact_volatile_from(GuestAddress(address), file, length).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::memory::allocate;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 7 % 251) as u8).collect()
    }

    #[test]
    fn aligned_and_unaligned_parts_arrive_and_what_follows_stays_zero() {
        let mut file = tempfile::tempfile().unwrap();
        let content = pattern(5 * 4096 + 100);
        file.write_all(&content).unwrap();
        for (address, offset, size) in
            [(0x20_0000u64, 0u64, content.len()), (0x20_0010, 4096, 9000), (0x20_0000, 7, 8192)]
        {
            let memory = allocate(64).unwrap();
            load(&memory, address, &mut file, offset, size as u64).unwrap();
            let mut loaded = vec![0xff; size + 4096];
            memory.read_slice(&mut loaded, GuestAddress(address)).unwrap();
            let start = offset as usize;
            assert_eq!(loaded[..size], content[start..start + size]);
            assert!(loaded[size..].iter().all(|byte| *byte == 0), "zeroes follow");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let memory = allocate(64).unwrap();
        for (address, offset, size) in [
            (64 << 20, 0, 4096),
            ((64 << 20) - 4096, 0, 8192),
            (0, 0, (1 << 20) + 1),
            (0, u64::MAX, 4096),
            (u64::MAX, 0, 10),
        ] {
            assert!(load(&memory, address, &mut file, offset, size).is_err(), "{address:#x} {offset:#x} {size:#x}");
        }
    }
}
