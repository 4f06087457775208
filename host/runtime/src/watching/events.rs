//! What fanotify(7) reports, decoded.

use agent_protocol::watch::event;

use super::sys::{FAN_RENAME, FileId};

/// Bytes of struct fanotify_event_metadata.
const METADATA: usize = 24;
/// Bytes of struct fanotify_event_info_header, of an fsid, and of a file handle's head.
const INFO: usize = 4;
const FSID: usize = 8;
const HANDLE: usize = 8;

// Kinds of information records (linux/fanotify.h).
const FID: u8 = 1;
const DFID_NAME: u8 = 2;
const DFID: u8 = 3;
const OLD_DFID_NAME: u8 = 10;
const NEW_DFID_NAME: u8 = 12;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The directory.
    pub directory: FileId,
    /// The name; empty for the directory itself.
    pub name: Vec<u8>,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Events were lost.
    pub overflow: bool,
    /// In inotify's numbers.
    pub mask: u32,
    /// Whose doing it is.
    pub pid: i32,
    /// The file itself, where its directory is not watched.
    pub file: Option<FileId>,
    /// Where it is; of a rename, where it was.
    pub named: Option<Named>,
    /// Where it is after a rename.
    pub renamed: Option<Named>,
}

/// Decodes what was read.
pub fn parse(mut bytes: &[u8]) -> impl Iterator<Item = Change> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.first_chunk().copied()?)).ok()?;
        if length < METADATA {
            return None;
        }
        let (one, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        Some(change(one))
    })
}

fn change(bytes: &[u8]) -> Change {
    let mask = bytes.get(8..16).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    let pid = bytes.get(20..24).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    let mut change =
        Change { overflow: mask & libc::FAN_Q_OVERFLOW != 0, mask: inotify(mask), pid, ..Change::default() };
    let mut infos = bytes.get(METADATA..).unwrap_or_default();
    while let Some((kind, body)) = next_info(&mut infos) {
        match kind {
            FID => change.file = split(body).map(|(id, _)| id),
            DFID | DFID_NAME | OLD_DFID_NAME => change.named = named(body),
            NEW_DFID_NAME => change.renamed = named(body),
            _ => {}
        }
    }
    change
}

/// The same bits, but for renames.
fn inotify(mask: u64) -> u32 {
    let moved = if mask & FAN_RENAME != 0 { event::MOVED_FROM | event::MOVED_TO } else { 0 };
    let directory = if mask & libc::FAN_ONDIR != 0 { event::ISDIR } else { 0 };
    (mask & u64::from(event::REPORTED)) as u32 | moved | directory
}

fn next_info<'a>(infos: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let [kind, _, low, high] = infos.first_chunk().copied()?;
    let (one, rest) = infos.split_at_checked(u16::from_ne_bytes([low, high]).into())?;
    *infos = rest;
    Some((kind, one.get(INFO..)?))
}

/// The file that a record stands for, and what follows.
fn split(body: &[u8]) -> Option<(FileId, &[u8])> {
    let length = u32::from_ne_bytes(body.get(FSID..)?.first_chunk().copied()?);
    let (id, rest) = body.split_at_checked(FSID + HANDLE + usize::try_from(length).ok()?)?;
    Some((id.to_vec(), rest))
}

fn named(body: &[u8]) -> Option<Named> {
    let (directory, rest) = split(body)?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = if name == b"." { Vec::new() } else { name.to_vec() };
    Some(Named { directory, name })
}
