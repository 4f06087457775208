//! The kernel's ELF file: its PVH entry point, and what goes where.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
const X86_64: u16 = 62;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY: the 32-bit entry point of PVH.
const PHYS32_ENTRY: u32 = 18;
/// A kernel has five program headers and a handful of notes; files with more are none.
const MOST_HEADERS: u16 = 64;
const MOST_NOTES: usize = 64;

/// Why a file is not a kernel that can be started.
#[derive(Debug, thiserror::Error)]
pub enum KernelImageError {
    /// Something else, or cut short.
    #[error("it is not a 64-bit x86 ELF file; give an uncompressed vmlinux")]
    NotAnElf,
    /// No PVH note.
    #[error("it has no PVH entry point; build the kernel with CONFIG_PVH=y")]
    NoPvhEntry,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// A stretch of the file that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the file.
    pub offset: u64,
    /// Guest physical address.
    pub address: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Bytes in memory: the rest is zeroes.
    pub memory_size: u64,
}

/// What is known of a kernel from its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Guest physical address of the PVH entry point.
    pub entry: u64,
    /// What to load.
    pub segments: Vec<Segment>,
}

impl KernelImage {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// See [`KernelImageError`].
    pub fn read(file: &File) -> Result<Self, KernelImageError> {
        let elf = read_at::<64>(file, 0)?.ok_or(KernelImageError::NotAnElf)?;
        let (headers, count) = (u64_at(&elf, 32), u16_at(&elf, 56));
        let is_kernel = elf.starts_with(ELF64_LITTLE_ENDIAN)
            && u16_at(&elf, 18) == X86_64
            && usize::from(u16_at(&elf, 54)) == PROGRAM_HEADER
            && count <= MOST_HEADERS;
        if !is_kernel {
            return Err(KernelImageError::NotAnElf);
        }
        let mut image = KernelImage { entry: 0, segments: Vec::new() };
        let mut entry = None;
        for index in 0..u64::from(count) {
            let at = headers.saturating_add(index * PROGRAM_HEADER as u64);
            let header = read_at::<PROGRAM_HEADER>(file, at)?.ok_or(KernelImageError::NotAnElf)?;
            let segment = Segment {
                offset: u64_at(&header, 8),
                address: u64_at(&header, 24),
                file_size: u64_at(&header, 32),
                memory_size: u64_at(&header, 40),
            };
            match u32_at(&header, 0) {
                PT_LOAD => image.segments.push(segment),
                PT_NOTE if entry.is_none() => entry = entry_in(file, segment)?,
                _ => {}
            }
        }
        image.entry = entry.ok_or(KernelImageError::NoPvhEntry)?;
        Ok(image)
    }

    /// Guest physical address of the first byte behind everything that is loaded; `None` when an address overflows.
    pub fn end(&self) -> Option<u64> {
        let ends = self.segments.iter().map(|s| s.address.checked_add(s.memory_size.max(s.file_size)));
        ends.collect::<Option<Vec<u64>>>()?.into_iter().max()
    }
}

/// The PVH entry point, if it is among the notes of a segment.
fn entry_in(file: &File, notes: Segment) -> io::Result<Option<u64>> {
    let end = notes.offset.saturating_add(notes.file_size);
    let mut at = notes.offset;
    for _ in 0..MOST_NOTES {
        let Some(note) = read_at::<16>(file, at)? else { return Ok(None) };
        let (name_size, value_size) = (u32_at(&note, 0), u32_at(&note, 4));
        if u32_at(&note, 8) == PHYS32_ENTRY && name_size == 4 && note.ends_with(b"Xen\0") {
            return Ok(match value_size {
                4 => read_at::<4>(file, at + 16)?.map(|value| u64::from(u32_at(&value, 0))),
                8 => read_at::<8>(file, at + 16)?.map(|value| u64_at(&value, 0)),
                _ => None,
            });
        }
        let padded = |size: u32| u64::from(size).next_multiple_of(4);
        at = at.saturating_add(12 + padded(name_size) + padded(value_size));
        if at >= end {
            break;
        }
    }
    Ok(None)
}

/// The bytes at `offset`, or `None` where the file ends before.
fn read_at<const N: usize>(file: &File, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(err) if matches!(err.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => Ok(None),
        Err(err) => Err(err),
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An ELF file with one note segment that holds `notes`: names, types, and 8 bytes of value each.
    fn elf(notes: &[(&[u8; 4], u32)]) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[32] = 64; // program headers
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 4; // PT_NOTE
        elf[64 + 8] = 120; // its offset
        elf[64 + 32] = u8::try_from(notes.len() * 24).unwrap();
        for (name, kind) in notes {
            for word in [4, 8, *kind] {
                elf.extend(u32::to_le_bytes(word));
            }
            elf.extend(*name);
            elf.extend(0x123_4567u64.to_le_bytes());
        }
        elf
    }

    fn read(bytes: &[u8]) -> Result<KernelImage, KernelImageError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        KernelImage::read(&file)
    }

    #[test]
    fn the_entry_point_is_in_xens_note() {
        assert_eq!(read(&elf(&[(b"GNU\0", 3), (b"Xen\0", 18)])).unwrap().entry, 0x123_4567);
        for (notes, what) in [(&[(b"Xen\0", 17)][..], "type"), (&[(b"GNU\0", 18)], "name"), (&[], "none")] {
            assert!(matches!(read(&elf(notes)), Err(KernelImageError::NoPvhEntry)), "{what}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut other_machine = elf(&[(b"Xen\0", 18)]);
        other_machine[18] = 183;
        let mut truncated = elf(&[]);
        truncated.truncate(100);
        let mut far = elf(&[]);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        let mut many = elf(&[]);
        many[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        for bytes in [&b""[..], b"MZ", b"\x7fELF", &[0; 200], &other_machine, &truncated, &far, &many] {
            assert!(matches!(read(bytes), Err(KernelImageError::NotAnElf)), "{bytes:?}");
        }
    }

    #[test]
    fn endless_notes_end() {
        let mut notes = elf(&[(b"GNU\0", 3)]);
        notes[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        notes.extend(vec![0; 1 << 16]);
        assert!(matches!(read(&notes), Err(KernelImageError::NoPvhEntry)));
    }

    #[test]
    fn an_end_that_overflows_is_none() {
        let segment = Segment { offset: 0, address: u64::MAX - 1, file_size: 1, memory_size: 5 };
        assert_eq!(KernelImage { entry: 0, segments: vec![segment] }.end(), None);
    }
}
