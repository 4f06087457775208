//! Requests whose only purpose is that the guest's kernel tells programs that watch files (inotify(7)) of what has happened on the host. Only a
//! system call in the guest makes its kernel do that: so the guest makes one that does again what was done, in the name of a user that
//! stands for this, and it is answered here as done. No file of the host is touched, and none comes to harm when such a request is late.
//!
//! Names are looked up as ghosts: nodes that stand for nothing, with a number of their own each, which the guest may not trust for any
//! time. So a real node never passes for one that was removed, and the next look at the name, by anybody else, finds what is there.

use std::io::Write;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{
    Attr, AttrOut, EntryOut, InHeader, MknodIn, Opcode, OpenOptions, OpenOut, OutHeader, ReleaseIn, SetattrIn,
    SetattrValid,
};
use virtiofsd::soft_idmap::Id;
use vm_memory::ByteValued;

use super::tmpfile::FIRST_NODE;

/// The lowest number of a ghost, and of a file that is only said to be open. virtiofsd counts from 1 up and will not get there.
pub const FIRST_GHOST: u64 = 1 << 62;
/// Set in the numbers of ghosts that are directories.
const DIRECTORY: u64 = 1;

/// The users that stand for this.
#[derive(Clone, Copy, Debug)]
pub struct ReplayUids {
    /// Files are looked up as they are; changes of attributes and opening are only said to be done.
    pub touch: u32,
    /// There is no file of any name; making one is only said to be done.
    pub make: u32,
    /// There is no file of any name, and none can be made: the guest forgets what it knew of the name.
    pub drop: u32,
    /// Each name is a file's; removing and renaming it is only said to be done.
    pub file: u32,
    /// Each name is a directory's; removing and renaming it is only said to be done.
    pub directory: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Touch,
    Make,
    Drop,
    File,
    Directory,
}

/// What is to be said.
pub enum Answer {
    /// Nothing: such requests have no answer.
    Nothing,
    /// It is done; with this body.
    Done(Vec<u8>),
    /// It has failed.
    Failed(Errno),
    /// The node's attributes, but this time of change.
    Attributes(Option<(u64, u32)>),
}

/// Answers such requests.
pub struct Replay {
    uids: ReplayUids,
    ghosts: AtomicU64,
}

impl Replay {
    /// For requests of these users.
    pub fn new(uids: ReplayUids) -> Self {
        Replay { uids, ghosts: AtomicU64::new(FIRST_GHOST) }
    }

    fn mode(&self, uid: u32) -> Option<Mode> {
        let ReplayUids { touch, make, drop, file, directory } = self.uids;
        let modes = [
            (touch, Mode::Touch),
            (make, Mode::Make),
            (drop, Mode::Drop),
            (file, Mode::File),
            (directory, Mode::Directory),
        ];
        modes.into_iter().find(|(number, _)| *number == uid).map(|(_, mode)| mode)
    }

    /// The answer, if it is such a request.
    pub fn answer(&self, header: &InHeader, reader: &Reader) -> Option<Answer> {
        let opcode = Opcode::try_from(header.opcode).ok()?;
        if (FIRST_GHOST..FIRST_NODE).contains(&header.nodeid) {
            return Some(self.answer_for_ghost(opcode, header));
        }
        if matches!(opcode, Opcode::Release) {
            // The kernel does this in nobody's name.
            let open = body::<ReleaseIn>(reader)?;
            return (FIRST_GHOST..FIRST_NODE).contains(&open.fh).then(|| Answer::Done(Vec::new()));
        }
        match (self.mode(header.uid.into_inner())?, opcode) {
            (Mode::Touch, Opcode::Setattr) => {
                let Some(change) = body::<SetattrIn>(reader) else { return Some(Answer::Failed(Errno::INVAL)) };
                // The time of change by which the guest knows its cached pages stays what the guest takes it for: they are checked
                // against the real one later.
                let time = SetattrValid::from_bits_truncate(change.valid).contains(SetattrValid::MTIME);
                Some(Answer::Attributes(time.then_some((change.mtime, change.mtimensec))))
            }
            (Mode::Touch, Opcode::Open) => Some(Answer::Done(self.open())),
            (Mode::Touch, _) => None,
            (mode, opcode) => self.answer_in(mode, opcode, reader),
        }
    }

    fn answer_in(&self, mode: Mode, opcode: Opcode, reader: &Reader) -> Option<Answer> {
        let done = || Some(Answer::Done(Vec::new()));
        match (mode, opcode) {
            (Mode::Make | Mode::Drop, Opcode::Lookup) => Some(Answer::Failed(Errno::NOENT)),
            (Mode::Make, Opcode::Mkdir) => Some(self.entry(true)),
            // Of another kind than a file, it would not be what the guest's kernel expects.
            (Mode::Make, Opcode::Mknod) => match body::<MknodIn>(reader) {
                Some(MknodIn { mode, .. }) if mode & libc::S_IFMT == libc::S_IFREG => Some(self.entry(false)),
                _ => Some(Answer::Failed(Errno::INVAL)),
            },
            (Mode::File | Mode::Directory, Opcode::Lookup) => Some(self.entry(mode == Mode::Directory)),
            (Mode::File, Opcode::Unlink) | (Mode::Directory, Opcode::Rmdir) => done(),
            (Mode::File | Mode::Directory, Opcode::Rename | Opcode::Rename2) => done(),
            // Whatever else changes something is not done.
            (
                _,
                Opcode::Mknod
                | Opcode::Mkdir
                | Opcode::Symlink
                | Opcode::Link
                | Opcode::Unlink
                | Opcode::Rmdir
                | Opcode::Rename
                | Opcode::Rename2
                | Opcode::Create
                | Opcode::TmpFile
                | Opcode::Setattr,
            ) => Some(Answer::Failed(Errno::EXIST)),
            _ => None,
        }
    }

    fn answer_for_ghost(&self, opcode: Opcode, header: &InHeader) -> Answer {
        match (opcode, self.mode(header.uid.into_inner())) {
            (Opcode::Forget, _) => Answer::Nothing,
            (Opcode::Getattr, _) => {
                Answer::Done(AttrOut { attr: attributes(header.nodeid), ..Default::default() }.as_slice().to_vec())
            }
            // A ghost as one of a rename's two directories.
            (Opcode::Lookup, Some(mode @ (Mode::File | Mode::Directory))) => self.entry(mode == Mode::Directory),
            (Opcode::Rename | Opcode::Rename2, Some(Mode::File | Mode::Directory)) => Answer::Done(Vec::new()),
            _ => Answer::Failed(Errno::STALE),
        }
    }

    fn next(&self) -> u64 {
        self.ghosts.fetch_add(2, Ordering::Relaxed)
    }

    /// A new ghost, which the guest may trust for no time.
    fn entry(&self, directory: bool) -> Answer {
        let nodeid = self.next() | if directory { DIRECTORY } else { 0 };
        let entry = EntryOut { nodeid, attr: attributes(nodeid), ..Default::default() };
        Answer::Done(entry.as_slice().to_vec())
    }

    fn open(&self) -> Vec<u8> {
        // Pages stay, and closing asks nothing.
        let open_flags = (OpenOptions::KEEP_CACHE | OpenOptions::NOFLUSH).bits();
        OpenOut { fh: self.next(), open_flags, ..Default::default() }.as_slice().to_vec()
    }
}

fn attributes(ghost: u64) -> Attr {
    let (mode, nlink) = if ghost & DIRECTORY == 0 { (libc::S_IFREG | 0o600, 1) } else { (libc::S_IFDIR | 0o700, 2) };
    Attr { ino: ghost, mode, nlink, blksize: 4096, ..Default::default() }
}

/// Writes an answer. Returns its length.
///
/// # Errors
/// When it does not fit.
pub fn write(header: &InHeader, mut writer: Writer, result: Result<&[u8], Errno>) -> virtiofsd::Result<usize> {
    let (error, body) = match result {
        Ok(body) => (0, body),
        Err(errno) => (-errno.raw_os_error(), [].as_slice()),
    };
    let len = size_of::<OutHeader>() + body.len();
    let out = OutHeader { len: u32::try_from(len).unwrap_or(u32::MAX), error, unique: header.unique };
    writer.write_all(&[out.as_slice(), body].concat()).map_err(virtiofsd::Error::EncodeMessage)?;
    Ok(len)
}

fn body<T: ByteValued>(reader: &Reader) -> Option<T> {
    let mut reader = reader.clone();
    reader.read_obj::<InHeader>().ok()?;
    reader.read_obj().ok()
}
