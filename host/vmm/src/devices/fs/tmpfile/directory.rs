//! virtiofsd's directories, whose descriptors it keeps to itself.
//!
//! It answers requests, and this process is where its descriptors are. So: ask it to open the directory with flags that nobody
//! else uses, look through this process's descriptors for the one that has them, duplicate that, and have it close its own. That
//! gives the directory through the very mount that the guest sees it through, which its inode number alone would not.
//!
//! A guest that opens directories with these flags itself, at the right moment, may have the wrong one of its own directories taken.

use std::ffi::CStr;
use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{AttrOut, EntryOut, GetattrIn, InHeader, Opcode, OpenIn, OpenOut, OutHeader, ReleaseIn};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::server::Server;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{lock, sys};
use crate::memory::GuestMemory;

/// Without a meaning for a directory that is opened, closed and not read in between; kept by the kernel all the same.
const MARK: OFlags = OFlags::from_bits_retain((libc::O_SYNC | libc::O_NONBLOCK | libc::O_ASYNC) as u32);

/// Access to virtiofsd's directories.
pub struct Directories {
    proc_self_fd: File,
    /// Also keeps marked directories to one at a time.
    loopback: Mutex<Loopback>,
}

impl Directories {
    /// `proc_self_fd` is /proc/self/fd.
    ///
    /// # Errors
    /// When memory cannot be mapped.
    pub fn new(proc_self_fd: File) -> std::io::Result<Self> {
        Ok(Directories { proc_self_fd, loopback: Mutex::new(Loopback::new()?) })
    }

    /// The directory `node`.
    ///
    /// # Errors
    /// What virtiofsd answers: EBADF for an unknown node, ENOTDIR, ENFILE.
    pub fn open(&self, server: &Server<PassthroughFs>, node: u64) -> Result<OwnedFd, Errno> {
        let mut loopback = lock(&self.loopback);
        let attr: AttrOut = loopback.call(server, Opcode::Getattr, node, GetattrIn::default().as_slice())?;
        // The kernel gives the lowest free number: most likely this one.
        let likely = rustix::io::dup(&self.proc_self_fd)?.as_raw_fd();
        let flags = (MARK | OFlags::DIRECTORY).bits();
        let open: OpenOut = loopback.call(server, Opcode::Opendir, node, OpenIn { flags, open_flags: 0 }.as_slice())?;
        let found = marked(likely, attr.attr.ino).map_or_else(|| self.search(attr.attr.ino), Ok);
        let release = ReleaseIn { fh: open.fh, ..Default::default() };
        loopback.send(server, Opcode::Releasedir, node, release.as_slice())?;
        found
    }

    fn search(&self, ino: u64) -> Result<OwnedFd, Errno> {
        // Opened anew: ours may be an O_PATH one, which cannot be read.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(&self.proc_self_fd, c".", flags, Mode::empty())?;
        for entry in Dir::new(readable)? {
            let entry = entry?;
            // "." and ".." are not numbers.
            let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            if let Some(found) = marked(number, ino) {
                return Ok(found);
            }
        }
        log::error!("fs: a directory that virtiofsd has opened is not in /proc/self/fd");
        Err(Errno::IO)
    }

    /// Gives a file without a name one.
    ///
    /// # Errors
    /// linkat(2)'s.
    pub fn link(&self, file: &File, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        let source = file.as_raw_fd().to_string();
        rustix::fs::linkat(&self.proc_self_fd, source, directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// /proc/self/fd.
    pub fn proc_self_fd(&self) -> &File {
        &self.proc_self_fd
    }

    /// virtiofsd's FUSE_INIT: the answer's body.
    ///
    /// # Errors
    /// virtiofsd's.
    pub fn begin(&self, server: &Server<PassthroughFs>, body: &[u8]) -> Result<Vec<u8>, Errno> {
        lock(&self.loopback).send(server, Opcode::Init, 0, body)
    }

    /// virtiofsd's FUSE_GETATTR.
    ///
    /// # Errors
    /// virtiofsd's.
    pub fn attributes(&self, server: &Server<PassthroughFs>, node: u64) -> Result<AttrOut, Errno> {
        lock(&self.loopback).call(server, Opcode::Getattr, node, GetattrIn::default().as_slice())
    }

    /// virtiofsd's FUSE_LOOKUP, counted as the guest's.
    ///
    /// # Errors
    /// virtiofsd's.
    pub fn lookup(&self, server: &Server<PassthroughFs>, parent: u64, name: &CStr) -> Result<EntryOut, Errno> {
        lock(&self.loopback).call(server, Opcode::Lookup, parent, name.to_bytes_with_nul())
    }
}

/// A duplicate of descriptor `number`, if that is the marked directory.
fn marked(number: RawFd, ino: u64) -> Option<OwnedFd> {
    // First the duplicate, then the questions: `number` can become another file's at any time.
    let fd = sys::duplicate(number).ok()?;
    let flags = rustix::fs::fcntl_getfl(&fd).ok()?;
    if !flags.contains(MARK) || flags.contains(OFlags::PATH) {
        return None;
    }
    let stat = rustix::fs::fstat(&fd).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_ino == ino).then_some(fd)
}

/// Requests of our own to virtiofsd, on memory that no guest sees.
struct Loopback {
    memory: GuestMemory,
    queue: Queue,
}

// Where things are in that memory. No request or answer that is sent here comes near the size of its area.
const TABLE: u64 = 0;
const AVAIL: u64 = 0x100;
const USED: u64 = 0x200;
const REQUEST: u64 = 0x1000;
const ANSWER: u64 = 0x2000;
const AREA: usize = 0x1000;
const END: usize = 0x3000;

impl Loopback {
    fn new() -> std::io::Result<Self> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), END)]).map_err(std::io::Error::other)?;
        let mut queue = Queue::new(2).map_err(std::io::Error::other)?;
        queue.set_desc_table_address(Some(TABLE as u32), Some(0));
        queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
        queue.set_used_ring_address(Some(USED as u32), Some(0));
        queue.set_ready(true);
        // One chain, at descriptor 0, that is always available: the ring's first entry is 0 and its index 1.
        memory.write_obj(1u16.to_le(), GuestAddress(AVAIL + 2)).map_err(std::io::Error::other)?;
        Ok(Loopback { memory, queue })
    }

    /// Sends a request as the guest's root would and returns the answer's body, which begins with a `T`.
    fn call<T: ByteValued + Default>(
        &mut self,
        server: &Server<PassthroughFs>,
        opcode: Opcode,
        node: u64,
        body: &[u8],
    ) -> Result<T, Errno> {
        let answer = self.send(server, opcode, node, body)?;
        let mut object = T::default();
        object.as_mut_slice().copy_from_slice(answer.get(..size_of::<T>()).ok_or(Errno::IO)?);
        Ok(object)
    }

    fn send(
        &mut self,
        server: &Server<PassthroughFs>,
        opcode: Opcode,
        node: u64,
        body: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let len = size_of::<InHeader>() + body.len();
        if len > AREA {
            return Err(Errno::NAMETOOLONG);
        }
        let header = InHeader { len: len as u32, opcode: opcode as u32, nodeid: node, ..Default::default() };
        self.memory.write_obj(header, GuestAddress(REQUEST)).map_err(|_| Errno::IO)?;
        self.memory.write_slice(body, GuestAddress(REQUEST + size_of::<InHeader>() as u64)).map_err(|_| Errno::IO)?;
        let next = Descriptor::new(REQUEST, len as u32, VRING_DESC_F_NEXT as u16, 1);
        let last = Descriptor::new(ANSWER, AREA as u32, VRING_DESC_F_WRITE as u16, 0);
        let table = [RawDescriptor::from(next), RawDescriptor::from(last)];
        for (address, descriptor) in (TABLE..).step_by(size_of::<RawDescriptor>()).zip(table) {
            self.memory.write_obj(descriptor, GuestAddress(address)).map_err(|_| Errno::IO)?;
        }
        self.queue.set_next_avail(0);
        let chain = self.queue.pop_descriptor_chain(&self.memory).ok_or(Errno::IO)?;
        let reader = Reader::new(&self.memory, chain.clone()).map_err(|_| Errno::IO)?;
        let writer = Writer::new(&self.memory, chain).map_err(|_| Errno::IO)?;
        let written = server.handle_message::<()>(reader, writer, None).map_err(|_| Errno::IO)?;
        let out: OutHeader = self.memory.read_obj(GuestAddress(ANSWER)).map_err(|_| Errno::IO)?;
        if out.error != 0 {
            return Err(Errno::from_raw_os_error(out.error.saturating_neg()));
        }
        let mut answer = vec![0; written.saturating_sub(size_of::<OutHeader>()).min(AREA - size_of::<OutHeader>())];
        let start = GuestAddress(ANSWER + size_of::<OutHeader>() as u64);
        self.memory.read_slice(&mut answer, start).map_err(|_| Errno::IO)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_directory_is_found_whatever_its_number() {
        // As in the jail: of /proc there is this descriptor alone.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc_self_fd = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).unwrap();
        let directories = Directories::new(File::from(proc_self_fd)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open = |flags| rustix::fs::open(dir.path(), flags | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let (_plain, _path) = (open(OFlags::RDONLY), open(OFlags::PATH));
        let ino = rustix::fs::stat(dir.path()).unwrap().st_ino;
        assert_eq!(directories.search(ino).unwrap_err(), Errno::IO);
        let _marked = open(MARK);
        let found = directories.search(ino).unwrap();
        assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, ino);
        assert!(rustix::fs::fcntl_getfl(&found).unwrap().contains(MARK));
    }
}
