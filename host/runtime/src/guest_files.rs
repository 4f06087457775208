//! The guest's kernel and initramfs: where they are, and whether they are what they should be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::error::Plain;

/// Environment variable: the kernel's path.
pub const KERNEL_VARIABLE: &str = "SANDBOX_KERNEL";
/// Environment variable: the initramfs's path.
pub const INITRAMFS_VARIABLE: &str = "SANDBOX_INITRAMFS";
/// Where `make install` puts both.
pub const DIRECTORY: &str = "/usr/local/share/sandbox";

/// Why there is no guest to start.
#[derive(Debug, thiserror::Error)]
pub enum GuestFileError {
    /// A file cannot be opened or read.
    #[error("cannot open the guest's {what} {}: {} (run `make install`, or set {variable})", path.display(), Plain(source))]
    Open {
        /// Kernel or initramfs.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The variable that names another one.
        variable: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is something else.
    #[error("the guest's kernel {} is not a 64-bit x86 ELF file (it must be the uncompressed vmlinux)", .0.display())]
    NotAnElf(PathBuf),
    /// The kernel has no PVH entry point.
    #[error("the guest's kernel {} has no PVH entry point: build it with CONFIG_PVH", .0.display())]
    NoPvhEntry(PathBuf),
    /// The initramfs is something else.
    #[error("the guest's initramfs {} is not an uncompressed cpio archive (newc)", .0.display())]
    NotACpio(PathBuf),
}

/// Paths of the guest's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFiles {
    /// An ELF file with a PVH note.
    pub kernel: PathBuf,
    /// A newc archive.
    pub initramfs: PathBuf,
}

impl GuestFiles {
    /// What the environment names, else what is installed.
    pub fn locate() -> Self {
        let path = |variable, name| {
            std::env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map_or_else(|| Path::new(DIRECTORY).join(name), PathBuf::from)
        };
        GuestFiles { kernel: path(KERNEL_VARIABLE, "vmlinux"), initramfs: path(INITRAMFS_VARIABLE, "initramfs.cpio") }
    }

    /// Opens the kernel, close-on-exec, after a look at its headers.
    ///
    /// # Errors
    /// When it cannot be read or is not a kernel that the monitor can start.
    pub fn open_kernel(&self) -> Result<File, GuestFileError> {
        let failed = |source| GuestFileError::Open {
            what: "kernel",
            path: self.kernel.clone(),
            variable: KERNEL_VARIABLE,
            source,
        };
        let file = File::open(&self.kernel).map_err(failed)?;
        match has_pvh_note(&file).map_err(failed)? {
            None => Err(GuestFileError::NotAnElf(self.kernel.clone())),
            Some(false) => Err(GuestFileError::NoPvhEntry(self.kernel.clone())),
            Some(true) => Ok(file),
        }
    }

    /// Opens the initramfs, close-on-exec, after a look at its first bytes.
    ///
    /// # Errors
    /// When it cannot be read or is not a cpio archive.
    pub fn open_initramfs(&self) -> Result<File, GuestFileError> {
        let failed = |source| GuestFileError::Open {
            what: "initramfs",
            path: self.initramfs.clone(),
            variable: INITRAMFS_VARIABLE,
            source,
        };
        let file = File::open(&self.initramfs).map_err(failed)?;
        match read_at::<6>(&file, 0).map_err(failed)? {
            Some(magic) if &magic == b"070701" => Ok(file),
            _ => Err(GuestFileError::NotACpio(self.initramfs.clone())),
        }
    }
}

/// `None` if this is no ELF file for 64-bit x86, else whether it has the note that names its PVH entry point.
fn has_pvh_note(file: &File) -> io::Result<Option<bool>> {
    const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const X86_64: u16 = 62;
    const PT_NOTE: u32 = 4;
    const HEADER: u64 = 56;
    let Some(elf) = read_at::<64>(file, 0)? else {
        return Ok(None);
    };
    if !elf.starts_with(ELF64_LITTLE_ENDIAN) || u16_at(&elf, 18) != X86_64 || u64::from(u16_at(&elf, 54)) != HEADER {
        return Ok(None);
    }
    let first = u64_at(&elf, 32);
    for index in 0..u64::from(u16_at(&elf, 56)) {
        let Some(header) = read_at::<{ HEADER as usize }>(file, first.saturating_add(index * HEADER))? else {
            return Ok(None);
        };
        if u32_at(&header, 0) == PT_NOTE && note_in(file, u64_at(&header, 8), u64_at(&header, 32))? {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// Whether the note segment at `start` has Xen's XEN_ELFNOTE_PHYS32_ENTRY, which is PVH's.
fn note_in(file: &File, start: u64, size: u64) -> io::Result<bool> {
    const PHYS32_ENTRY: u32 = 18;
    const MOST_NOTES: usize = 64;
    let end = start.saturating_add(size);
    let mut at = start;
    for _ in 0..MOST_NOTES {
        let Some(note) = read_at::<16>(file, at)? else {
            return Ok(false);
        };
        let (name_size, value_size) = (u32_at(&note, 0), u32_at(&note, 4));
        if u32_at(&note, 8) == PHYS32_ENTRY && name_size == 4 && note.ends_with(b"Xen\0") {
            return Ok(true);
        }
        let padded = |size: u32| u64::from(size).next_multiple_of(4);
        at = at.saturating_add(12 + padded(name_size) + padded(value_size));
        if at >= end {
            break;
        }
    }
    Ok(false)
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
    use super::*;

    /// An ELF file with one note segment that holds `notes`: names and types.
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
            elf.extend([0; 8]);
        }
        elf
    }

    fn files(kernel: &[u8], initramfs: &[u8]) -> (tempfile::TempDir, GuestFiles) {
        let directory = tempfile::tempdir().unwrap();
        let files =
            GuestFiles { kernel: directory.path().join("vmlinux"), initramfs: directory.path().join("initramfs.cpio") };
        std::fs::write(&files.kernel, kernel).unwrap();
        std::fs::write(&files.initramfs, initramfs).unwrap();
        (directory, files)
    }

    #[test]
    fn kernels() {
        let open = |bytes: &[u8]| {
            let (_directory, files) = files(bytes, b"");
            files.open_kernel()
        };
        open(&elf(&[(b"GNU\0", 3), (b"Xen\0", 18)])).unwrap();
        for (notes, what) in [(&[(b"Xen\0", 17)][..], "type"), (&[(b"GNU\0", 18)], "name"), (&[], "none")] {
            assert!(matches!(open(&elf(notes)), Err(GuestFileError::NoPvhEntry(_))), "{what}");
        }
        let mut other_machine = elf(&[(b"Xen\0", 18)]);
        other_machine[18] = 183;
        let mut truncated = elf(&[]);
        truncated.truncate(100);
        let mut far = elf(&[]);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        for bytes in [&b""[..], b"MZ", b"\x7fELF", &[0; 200], &other_machine, &truncated, &far] {
            assert!(matches!(open(bytes), Err(GuestFileError::NotAnElf(_))), "{bytes:?}");
        }
    }

    #[test]
    fn endless_notes_end() {
        let mut notes = elf(&[(b"GNU\0", 3)]);
        notes[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        notes.extend(vec![0; 1 << 16]);
        let (_directory, files) = files(&notes, b"");
        assert!(matches!(files.open_kernel(), Err(GuestFileError::NoPvhEntry(_))));
    }

    #[test]
    fn archives() {
        let open = |bytes: &[u8]| {
            let (_directory, files) = files(b"", bytes);
            files.open_initramfs()
        };
        open(b"070701000000").unwrap();
        for bytes in [&b""[..], b"07070", b"070702000000", b"\x1f\x8b\x08\0\0\0\0\0"] {
            assert!(matches!(open(bytes), Err(GuestFileError::NotACpio(_))), "{bytes:?}");
        }
        let none = GuestFiles { kernel: "/none".into(), initramfs: "/none".into() };
        let text = none.open_initramfs().unwrap_err().to_string();
        let expected = "cannot open the guest's initramfs /none: no such file or directory (run `make install`, or set SANDBOX_INITRAMFS)";
        assert_eq!(text, expected);
    }
}
