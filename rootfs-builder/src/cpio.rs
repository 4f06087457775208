//! The "newc" cpio format, as far as the kernel's initramfs unpacker reads it.
//!
//! An entry is a header of "070701" and thirteen eight-digit hexadecimal fields, the name with a final NUL, and the content;
//! name and content are each padded to four bytes. An entry named `TRAILER!!!` ends the archive.

use std::collections::BTreeMap;

const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const SYMLINK: u32 = 0o120000;
const TRAILER: &str = "TRAILER!!!";

/// Why an entry cannot be in an archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// The kernel would unpack it elsewhere than asked, or not at all.
    #[error("'{0}' is not a plain relative path")]
    Name(String),
    /// Size fields have 32 bits.
    #[error("'{0}' is 4 GiB or larger, more than the cpio format holds")]
    TooLarge(String),
}

#[derive(Debug)]
struct Entry {
    mode: u32,
    links: u32,
    content: Vec<u8>,
}

/// An archive in the making. Entries are kept sorted by path, which also puts a directory before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a directory.
    pub fn directory(&mut self, path: &str, permissions: u32) -> Result<(), CpioError> {
        self.add(path, Entry { mode: DIRECTORY | permissions, links: 2, content: Vec::new() })
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, content: Vec<u8>) -> Result<(), CpioError> {
        self.add(path, Entry { mode: REGULAR | permissions, links: 1, content })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        self.add(path, Entry { mode: SYMLINK | 0o777, links: 1, content: target.as_bytes().to_vec() })
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<(), CpioError> {
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain || path.contains('\0') || path == TRAILER {
            return Err(CpioError::Name(path.to_owned()));
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// The archive's bytes. Owner is root, times are zero and inode numbers count up, so that they depend on nothing else.
    pub fn finish(self) -> Result<Vec<u8>, CpioError> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut out, inode, path, entry)?;
        }
        append(&mut out, 0, TRAILER, &Entry { mode: 0, links: 1, content: Vec::new() })?;
        Ok(out)
    }
}

fn append(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<(), CpioError> {
    let field = |length: usize| u32::try_from(length).map_err(|_| CpioError::TooLarge(path.to_owned()));
    let size = field(entry.content.len())?;
    let name_size = field(path.len() + 1)?;
    let (uid, gid, mtime, device, checksum) = (0, 0, 0, 0, 0);
    let fields =
        [inode, entry.mode, uid, gid, entry.links, mtime, size, device, device, device, device, name_size, checksum];
    out.extend_from_slice(b"070701");
    for value in fields {
        out.extend_from_slice(format!("{value:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&entry.content);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}
