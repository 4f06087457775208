//! Files that have no name yet: what open(2) with O_TMPFILE makes in a shared directory.
//!
//! virtiofsd knows files by their names, so it cannot serve them. Here each is an open file of the host with a node of its own,
//! until linkat(2) gives it a name; that name is virtiofsd's then, under a node of virtiofsd's, and the open file stays here until
//! the guest closes and forgets it.
//!
//! Nodes here are numbered from [`FIRST_NODE`]; virtiofsd counts from 1 up and will not get there. Every file takes one of a
//! bounded number of slots, so a guest that never forgets gets ENFILE.

mod directory;
mod ops;
mod request;
mod sys;
mod table;

use std::fs::File;
use std::io::Write;
use std::mem::size_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{
    AttrOut, BatchForgetIn, EntryOut, ForgetIn, ForgetOne, FsOptions, InHeader, InitInCompat, InitInExt, Opcode,
    OpenOut, OutHeader,
};
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::passthrough::xattrmap::XattrMap;
use virtiofsd::server::Server;
use vm_memory::ByteValued;

use directory::Directories;
use request::Request;
use table::Table;

use super::xattr_names;

/// The lowest node number of a file without a name.
pub const FIRST_NODE: u64 = 1 << 63;

/// The most nodes that one FUSE_BATCH_FORGET forgets: virtiofsd's limit.
const FORGETS_MAX: u32 = (1 << 20) / size_of::<ForgetOne>() as u32;

/// The files without a name, and what it takes to make and name them.
pub struct TmpFiles {
    table: Table,
    directories: Directories,
    xattr_names: XattrMap,
    /// The guest leaves its umask to us and sends longer FUSE_SETXATTR requests.
    posix_acl: AtomicBool,
    /// The guest sends the caller's supplementary groups where they matter.
    groups: AtomicBool,
}

/// What becomes of a request.
enum Answer {
    /// An answer with this body.
    Body(Vec<u8>),
    /// An answer whose body of this length has been written past the header's place.
    Written(usize),
    /// None.
    Nothing,
}

impl TmpFiles {
    /// At most `max` of them at a time.
    ///
    /// # Errors
    /// See [`Directories::new`].
    pub fn new(proc_self_fd: File, max: usize) -> std::io::Result<Self> {
        Ok(TmpFiles {
            table: Table::new(max),
            directories: Directories::new(proc_self_fd)?,
            xattr_names: xattr_names::rules()?,
            posix_acl: AtomicBool::new(false),
            groups: AtomicBool::new(false),
        })
    }

    /// FUSE_INIT: a new session, of which no file is known. Notes what the guest can do, and has virtiofsd answer.
    ///
    /// The guest is not to map the ids of mounts (the host has mapped what is to be mapped): it would not say any more in whose name a
    /// request is.
    ///
    /// # Errors
    /// When the request does not decode or the answer does not fit.
    pub fn begin(
        &self,
        passthrough: &Server<PassthroughFs>,
        header: InHeader,
        mut reader: Reader,
        writer: Writer,
    ) -> virtiofsd::Result<usize> {
        self.clear();
        let capable = capabilities(reader.clone()).unwrap_or(FsOptions::empty());
        // virtiofsd takes these three or none.
        let acl = FsOptions::POSIX_ACL | FsOptions::DONT_MASK | FsOptions::SETXATTR_EXT;
        self.posix_acl.store(capable.contains(acl), Ordering::Relaxed);
        self.groups.store(capable.contains(FsOptions::CREATE_SUPP_GROUP), Ordering::Relaxed);
        let decode = virtiofsd::Error::DecodeMessage;
        reader.read_obj::<InHeader>().map_err(decode)?;
        let mut body = reader.read_obj::<InitInCompat>().map_err(decode)?.as_slice().to_vec();
        if capable.contains(FsOptions::INIT_EXT) {
            let mut more: InitInExt = reader.read_obj().map_err(decode)?;
            more.flags2 &= !((FsOptions::ALLOW_IDMAP.bits() >> 32) as u32);
            body.extend(more.as_slice());
        }
        let answer = self.directories.begin(passthrough, &body);
        super::replay::write(&header, writer, answer.as_deref().map_err(|errno| *errno))
    }

    /// The attributes of one of virtiofsd's nodes.
    ///
    /// # Errors
    /// virtiofsd's.
    pub fn attributes_of(&self, passthrough: &Server<PassthroughFs>, node: u64) -> Result<AttrOut, Errno> {
        self.directories.attributes(passthrough, node)
    }

    /// Closes all files.
    pub fn clear(&self) {
        self.table.clear();
    }

    /// FUSE_BATCH_FORGET: takes the nodes that are files without a name; others are not touched.
    pub fn batch_forget(&self, mut reader: Reader) {
        let Ok(_) = reader.read_obj::<InHeader>() else { return };
        let Ok(BatchForgetIn { count, .. }) = reader.read_obj() else { return };
        // Ends with the request, however large a count it claims, and in no case later than virtiofsd does.
        for _ in 0..count.min(FORGETS_MAX) {
            let Ok(ForgetOne { nodeid, nlookup }) = reader.read_obj() else { return };
            if nodeid >= FIRST_NODE {
                self.table.forget(nodeid, nlookup);
            }
        }
    }

    /// Answers a request for one of these files. Returns the answer's length.
    ///
    /// # Errors
    /// When the answer does not fit.
    pub fn answer(
        &self,
        passthrough: &Server<PassthroughFs>,
        header: InHeader,
        reader: Reader,
        mut writer: Writer,
    ) -> virtiofsd::Result<usize> {
        let fail = virtiofsd::Error::EncodeMessage;
        // request.rs has seen that the header fits, unless the request is one without an answer.
        let head = size_of::<OutHeader>().min(writer.available_bytes());
        let mut data = writer.split_at(head).map_err(|err| fail(std::io::Error::other(err)))?;
        let result = Request::new(header, reader).and_then(|request| self.serve(passthrough, request, &mut data));
        let (error, len) = match result {
            Ok(Answer::Nothing) => return Ok(0),
            Ok(Answer::Body(body)) => {
                data.write_all(&body).map_err(fail)?;
                (0, body.len())
            }
            Ok(Answer::Written(len)) => (0, len),
            Err(errno) => (-errno.raw_os_error(), 0),
        };
        let len = size_of::<OutHeader>() + len;
        let out = OutHeader { len: u32::try_from(len).unwrap_or(u32::MAX), error, unique: header.unique };
        writer.write_all(out.as_slice()).map_err(fail)?;
        Ok(len)
    }

    fn serve(
        &self,
        passthrough: &Server<PassthroughFs>,
        mut request: Request,
        data: &mut Writer,
    ) -> Result<Answer, Errno> {
        let opcode = Opcode::try_from(request.header.opcode).map_err(|()| Errno::NOSYS)?;
        let body = match opcode {
            Opcode::TmpFile => self.create(passthrough, request),
            Opcode::Link => self.link(passthrough, request),
            Opcode::Forget => {
                if let Ok(ForgetIn { nlookup }) = request.take() {
                    self.table.forget(request.header.nodeid, nlookup);
                }
                return Ok(Answer::Nothing);
            }
            Opcode::Interrupt | Opcode::NotifyReply => return Ok(Answer::Nothing),
            Opcode::Read => return self.read(request, data).map(Answer::Written),
            Opcode::Write => self.write(request),
            Opcode::Getattr => self.getattr(request),
            Opcode::Setattr => self.setattr(request),
            Opcode::Open => self.open(request),
            Opcode::Release => self.release(request),
            Opcode::Flush => self.flush(request),
            Opcode::Fsync => self.fsync(request),
            Opcode::Fallocate => self.fallocate(request),
            Opcode::Lseek => self.lseek(request),
            Opcode::CopyFileRange => self.copy_file_range(request),
            Opcode::Statfs => self.statfs(request),
            Opcode::Getxattr => self.getxattr(request),
            Opcode::Setxattr => self.setxattr(request),
            Opcode::Listxattr => self.listxattr(request),
            Opcode::Removexattr => self.removexattr(request),
            _ => Err(Errno::NOSYS),
        };
        body.map(Answer::Body)
    }

    /// FUSE_TMPFILE: the header's node is the directory; the name that follows says nothing.
    fn create(&self, passthrough: &Server<PassthroughFs>, request: Request) -> Result<Vec<u8>, Errno> {
        let (parent, order) = (request.header.nodeid, request.creation(self.groups.load(Ordering::Relaxed))?);
        if parent >= FIRST_NODE {
            return Err(Errno::NOTDIR);
        }
        let slot = self.table.reserve()?;
        let directory = self.directories.open(passthrough, parent)?;
        let umask = self.posix_acl.load(Ordering::Relaxed).then_some(order.umask);
        let file = ops::create_in(&directory, &order, umask)?;
        let attr = ops::attributes(&file)?;
        let (nodeid, fh) = self.table.insert(file, slot);
        let entry = EntryOut { nodeid, attr_valid: trusted_for(&attr).as_secs(), attr, ..Default::default() };
        let open = OpenOut { fh, ..Default::default() };
        Ok([entry.as_slice(), open.as_slice()].concat())
    }

    /// FUSE_LINK of one of these files: from then on the name is virtiofsd's.
    fn link(&self, passthrough: &Server<PassthroughFs>, mut request: Request) -> Result<Vec<u8>, Errno> {
        let link: virtiofsd::fuse::LinkIn = request.take()?;
        let parent = request.header.nodeid;
        let name = request.file_name()?;
        if parent >= FIRST_NODE {
            return Err(Errno::NOTDIR);
        }
        let file = self.table.node(link.oldnodeid)?;
        let directory = self.directories.open(passthrough, parent)?;
        self.directories.link(&file.file, &directory, &name)?;
        let entry = self.directories.lookup(passthrough, parent, &name)?;
        Ok(entry.as_slice().to_vec())
    }
}

/// How long the guest may trust attributes. Once a file has a name, it changes behind this node's back.
fn trusted_for(attr: &virtiofsd::fuse::Attr) -> Duration {
    if attr.nlink == 0 { super::TRUSTED_FOR } else { Duration::ZERO }
}

/// What the guest can do, from FUSE_INIT.
fn capabilities(mut reader: Reader) -> Option<FsOptions> {
    reader.read_obj::<InHeader>().ok()?;
    let InitInCompat { flags, .. } = reader.read_obj().ok()?;
    let low = FsOptions::from_bits_truncate(u64::from(flags));
    if !low.contains(FsOptions::INIT_EXT) {
        return Some(low);
    }
    let InitInExt { flags2, .. } = reader.read_obj().ok()?;
    Some(FsOptions::from_bits_truncate(u64::from(flags2) << 32 | u64::from(flags)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
