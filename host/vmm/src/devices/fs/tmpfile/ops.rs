//! What the guest does with an open file that has no name.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use virtiofsd::descriptor_utils::Writer;
use virtiofsd::fuse::{
    Attr, AttrOut, CopyfilerangeIn, FATTR_FH, FSYNC_FDATASYNC, FallocateIn, FlushIn, FsyncIn, GETATTR_FH, GetattrIn,
    GetxattrIn, GetxattrOut, Kstatfs, LseekIn, LseekOut, OPEN_KILL_SUIDGID, OpenIn, OpenOut, ReadIn, ReleaseIn,
    SetattrIn, SetattrValid, SetxattrFlags, SetxattrIn, SetxattrInCompat, StatfsOut, WRITE_CACHE, WRITE_KILL_PRIV,
    WriteIn, WriteOut,
};
use virtiofsd::oslib::{ScopedUmask, WritevFlags};
use virtiofsd::passthrough::credentials::{ScopedCaps, UnixCredentials, drop_effective_cap};
use virtiofsd::soft_idmap::{GuestGid, GuestUid, Id};
use vm_memory::ByteValued;

use super::request::{Creation, Request, XATTR_MAX};
use super::table::HostFile;
use super::{FIRST_NODE, TmpFiles, trusted_for, xattr_names};

/// Flags of open(2) that go from guest to host, here as elsewhere without O_APPEND, which goes with each write, and O_NOATIME.
const KEPT: OFlags = OFlags::SYNC.union(OFlags::DSYNC).union(OFlags::DIRECT);
/// Extended attributes that the guest gets to see only when it takes part in access control lists.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Makes a file in `directory` as the caller, who leaves a `umask` to us only in a file system with access control lists.
pub fn create_in(directory: impl AsFd, order: &Creation, umask: Option<u32>) -> Result<File, Errno> {
    // Reading is allowed whatever the guest asked for: its kernel knows. Attributes and content can then be had from one descriptor.
    let asked = OFlags::from_bits_retain(order.flags).intersection(KEPT | OFlags::EXCL);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | asked;
    let mode = Mode::from_bits_retain(order.mode & 0o7777);
    let root = order.uid.is_root() && order.gid.is_root();
    // Root's groups would stay with this thread: there is no guard when neither ID changes.
    let groups = if root { Vec::new() } else { order.groups.clone() };
    let _caller = UnixCredentials::new(order.uid, order.gid)
        .supplementary_gid(order.groups_known, groups)
        .set()
        .map_err(|err| errno(&err))?;
    let _umask = umask.map(|umask| ScopedUmask::new(umask & 0o777));
    match rustix::fs::openat(directory, c".", flags, mode) {
        Ok(fd) => Ok(File::from(fd)),
        // What open(2) says where O_TMPFILE means nothing.
        Err(Errno::ISDIR) => Err(Errno::OPNOTSUPP),
        Err(errno) => Err(errno),
    }
}

/// A file's attributes.
pub fn attributes(file: &File) -> Result<Attr, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Attr {
        ino: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: stat.st_atime as u64,
        mtime: stat.st_mtime as u64,
        ctime: stat.st_ctime as u64,
        atimensec: stat.st_atime_nsec as u32,
        mtimensec: stat.st_mtime_nsec as u32,
        ctimensec: stat.st_ctime_nsec as u32,
        mode: stat.st_mode,
        nlink: stat.st_nlink as u32,
        uid: GuestUid::from(stat.st_uid),
        gid: GuestGid::from(stat.st_gid),
        rdev: 0,
        blksize: stat.st_blksize as u32,
        flags: 0,
    })
}

impl TmpFiles {
    /// The handle's file if there is a handle, or else the node's.
    fn file(&self, node: u64, fh: Option<u64>) -> Result<Arc<HostFile>, Errno> {
        fh.map_or_else(|| self.table.node(node), |fh| self.table.handle(node, fh))
    }

    pub(super) fn getattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let getattr: GetattrIn = request.take()?;
        let fh = (getattr.flags & GETATTR_FH != 0).then_some(getattr.fh);
        attributes_answer(&self.file(request.header.nodeid, fh)?.file)
    }

    pub(super) fn setattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let set: SetattrIn = request.take()?;
        let host = self.file(request.header.nodeid, (set.valid & FATTR_FH != 0).then_some(set.fh))?;
        let (file, valid) = (&host.file, SetattrValid::from_bits_truncate(set.valid));
        if valid.contains(SetattrValid::MODE) {
            rustix::fs::fchmod(file, Mode::from_bits_retain(set.mode & 0o7777))?;
        }
        let uid = valid.contains(SetattrValid::UID).then(|| set.uid.into_inner()).filter(|id| *id != u32::MAX);
        let gid = valid.contains(SetattrValid::GID).then(|| set.gid.into_inner()).filter(|id| *id != u32::MAX);
        if uid.is_some() || gid.is_some() {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let _fsetid = without_fsetid(valid.contains(SetattrValid::KILL_SUIDGID))?;
            rustix::fs::ftruncate(file, signed(set.size)?)?;
        }
        let (atime, mtime) = (valid.contains(SetattrValid::ATIME), valid.contains(SetattrValid::MTIME));
        if atime || mtime {
            let time = |given, now, seconds: u64, nanoseconds: u32| match (given, now) {
                (_, true) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                (true, false) => Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds.into() },
                (false, false) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            };
            let times = Timestamps {
                last_access: time(atime, valid.contains(SetattrValid::ATIME_NOW), set.atime, set.atimensec),
                last_modification: time(mtime, valid.contains(SetattrValid::MTIME_NOW), set.mtime, set.mtimensec),
            };
            rustix::fs::futimens(file, &times)?;
        }
        attributes_answer(file)
    }

    /// FUSE_OPEN: somebody opens the file anew, through /proc/self/fd in the guest.
    pub(super) fn open(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let open: OpenIn = request.take()?;
        let node = request.header.nodeid;
        let asked = OFlags::from_bits_retain(open.flags);
        if asked.intersection(OFlags::RWMODE) == OFlags::RWMODE {
            return Err(Errno::INVAL);
        }
        let flags = asked.intersection(OFlags::RWMODE | OFlags::TRUNC | KEPT) | OFlags::CLOEXEC;
        let host = self.table.node(node)?;
        let slot = self.table.reserve()?;
        let source = host.file.as_raw_fd().to_string();
        let fd = {
            let _fsetid = without_fsetid(open.open_flags & OPEN_KILL_SUIDGID != 0)?;
            rustix::fs::openat(self.directories.proc_self_fd(), source, flags, Mode::empty())?
        };
        let fh = self.table.insert_handle(node, File::from(fd), slot)?;
        Ok(OpenOut { fh, ..Default::default() }.as_slice().to_vec())
    }

    pub(super) fn release(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let release: ReleaseIn = request.take()?;
        self.table.release(request.header.nodeid, release.fh)?;
        Ok(Vec::new())
    }

    /// Data goes from the file to the guest's memory at once. Returns how much.
    pub(super) fn read(&self, mut request: Request, data: &mut Writer) -> Result<usize, Errno> {
        let read: ReadIn = request.take()?;
        let host = self.table.handle(request.header.nodeid, read.fh)?;
        transfer(read.offset, read.size, |offset, len| data.read_from_file_at(&host.file, len, offset, None))
    }

    /// Data goes from the guest's memory to the file at once.
    pub(super) fn write(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let write: WriteIn = request.take()?;
        let host = self.table.handle(request.header.nodeid, write.fh)?;
        // What comes from the guest's page cache has its place already.
        let append = write.flags & OFlags::APPEND.bits() != 0 && write.write_flags & WRITE_CACHE == 0;
        let flags = || append.then_some(WritevFlags::RWF_APPEND);
        let _fsetid = without_fsetid(write.write_flags & WRITE_KILL_PRIV != 0)?;
        let reader = &mut request.reader;
        let written = transfer(write.offset, write.size, |offset, len| {
            reader.write_to_file_at(&host.file, len, offset, flags())
        })?;
        Ok(WriteOut { size: written as u32, padding: 0 }.as_slice().to_vec())
    }

    /// FUSE_FLUSH: the guest has closed a descriptor. So do we, for file systems that do something then.
    pub(super) fn flush(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let flush: FlushIn = request.take()?;
        let host = self.table.handle(request.header.nodeid, flush.fh)?;
        drop(rustix::io::dup(&host.file)?);
        Ok(Vec::new())
    }

    pub(super) fn fsync(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let fsync: FsyncIn = request.take()?;
        let host = self.table.handle(request.header.nodeid, fsync.fh)?;
        if fsync.fsync_flags & FSYNC_FDATASYNC == 0 {
            rustix::fs::fsync(&host.file)?;
        } else {
            rustix::fs::fdatasync(&host.file)?;
        }
        Ok(Vec::new())
    }

    pub(super) fn fallocate(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let FallocateIn { fh, offset, length, mode, .. } = request.take()?;
        let host = self.table.handle(request.header.nodeid, fh)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        rustix::fs::fallocate(&host.file, mode, signed(offset)?, signed(length)?)?;
        Ok(Vec::new())
    }

    /// The file's position means nothing here, and nobody reads from it.
    pub(super) fn lseek(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let LseekIn { fh, offset, whence, .. } = request.take()?;
        let host = self.table.handle(request.header.nodeid, fh)?;
        let from = match i32::try_from(whence).map_err(|_| Errno::INVAL)? {
            libc::SEEK_SET => SeekFrom::Start(signed(offset)?),
            libc::SEEK_END => SeekFrom::End(offset as i64),
            // Past any end, where lseek(2) says ENXIO.
            libc::SEEK_DATA => SeekFrom::Data(signed(offset).map_err(|_| Errno::NXIO)?),
            libc::SEEK_HOLE => SeekFrom::Hole(signed(offset).map_err(|_| Errno::NXIO)?),
            _ => return Err(Errno::INVAL),
        };
        let offset = rustix::fs::seek(&host.file, from)?;
        Ok(LseekOut { offset }.as_slice().to_vec())
    }

    pub(super) fn copy_file_range(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let copy: CopyfilerangeIn = request.take()?;
        let node = request.header.nodeid;
        if node < FIRST_NODE || copy.nodeid_out < FIRST_NODE {
            // The guest's kernel copies by itself then. ENOSYS would keep it from ever asking again, for any file.
            return Err(Errno::XDEV);
        }
        if copy.flags != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.table.handle(node, copy.fh_in)?;
        let to = self.table.handle(copy.nodeid_out, copy.fh_out)?;
        let (mut off_in, mut off_out) = (signed(copy.off_in)?, signed(copy.off_out)?);
        // The answer has 32 bits for the length.
        let len = copy.len.min(1 << 30) as usize;
        let done = rustix::fs::copy_file_range(&from.file, Some(&mut off_in), &to.file, Some(&mut off_out), len)?;
        Ok(WriteOut { size: done as u32, padding: 0 }.as_slice().to_vec())
    }

    pub(super) fn statfs(&self, request: Request) -> Result<Vec<u8>, Errno> {
        let host = self.table.node(request.header.nodeid)?;
        let stat = rustix::fs::fstatvfs(&host.file)?;
        let st = Kstatfs {
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            bsize: stat.f_bsize as u32,
            namelen: stat.f_namemax as u32,
            frsize: stat.f_frsize as u32,
            ..Default::default()
        };
        Ok(StatfsOut { st }.as_slice().to_vec())
    }

    pub(super) fn getxattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let GetxattrIn { size, .. } = request.take()?;
        let name = request.xattr_name()?;
        let name = self.name_on_host(&name)?;
        let host = self.table.node(request.header.nodeid)?;
        if size == 0 {
            return Ok(xattr_size(rustix::fs::fgetxattr_query(&host.file, &*name)?));
        }
        let mut value = vec![0; (size as usize).min(XATTR_MAX)];
        let len = rustix::fs::fgetxattr(&host.file, &*name, value.as_mut_slice())?;
        value.truncate(len);
        Ok(value)
    }

    pub(super) fn listxattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let GetxattrIn { size, .. } = request.take()?;
        let host = self.table.node(request.header.nodeid)?;
        if size == 0 {
            return Ok(xattr_size(rustix::fs::flistxattr_query(&host.file)?));
        }
        let mut names = vec![0; (size as usize).min(XATTR_MAX)];
        let len = rustix::fs::flistxattr(&host.file, names.as_mut_slice())?;
        names.truncate(len);
        let names = xattr_names::shown(&self.xattr_names, names);
        let shown = names.split_inclusive(|byte| *byte == 0);
        let shown = shown.filter(|name| self.refuse_hidden(name.strip_suffix(b"\0").unwrap_or(name)).is_ok());
        Ok(shown.flatten().copied().collect())
    }

    pub(super) fn setxattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let acl = self.posix_acl.load(Ordering::Relaxed);
        // The longer form of the request comes with access control lists.
        let set = if acl {
            request.take::<SetxattrIn>()?
        } else {
            let SetxattrInCompat { size, flags } = request.take()?;
            SetxattrIn { size, flags, ..Default::default() }
        };
        let (name, value) = request.xattr()?;
        if value.len() != set.size as usize {
            return Err(Errno::INVAL);
        }
        let name = self.name_on_host(&name)?;
        let host = self.table.node(request.header.nodeid)?;
        let extra = SetxattrFlags::from_bits_truncate(set.setxattr_flags);
        if extra.contains(SetxattrFlags::SETXATTR_ACL_KILL_SGID) && name.to_bytes() == ACLS[0] {
            let mode = rustix::fs::fstat(&host.file)?.st_mode & 0o7777 & !libc::S_ISGID;
            rustix::fs::fchmod(&host.file, Mode::from_bits_retain(mode))?;
        }
        rustix::fs::fsetxattr(&host.file, &*name, &value, XattrFlags::from_bits_retain(set.flags))?;
        Ok(Vec::new())
    }

    pub(super) fn removexattr(&self, mut request: Request) -> Result<Vec<u8>, Errno> {
        let name = request.xattr_name()?;
        let name = self.name_on_host(&name)?;
        let host = self.table.node(request.header.nodeid)?;
        rustix::fs::fremovexattr(&host.file, &*name)?;
        Ok(Vec::new())
    }

    fn name_on_host<'a>(&self, name: &'a CStr) -> Result<Cow<'a, CStr>, Errno> {
        self.refuse_hidden(name.to_bytes())?;
        xattr_names::on_host(&self.xattr_names, name)
    }

    fn refuse_hidden(&self, name: &[u8]) -> Result<(), Errno> {
        if ACLS.contains(&name) && !self.posix_acl.load(Ordering::Relaxed) { Err(Errno::NOTSUP) } else { Ok(()) }
    }
}

fn attributes_answer(file: &File) -> Result<Vec<u8>, Errno> {
    let attr = attributes(file)?;
    Ok(AttrOut { attr_valid: trusted_for(&attr).as_secs(), attr, ..Default::default() }.as_slice().to_vec())
}

/// What a guest gets that asks with size 0: how much there is.
fn xattr_size(len: usize) -> Vec<u8> {
    GetxattrOut { size: len as u32, padding: 0 }.as_slice().to_vec()
}

/// Repeats `step` until `size` bytes are moved or it moves none. An error counts only when nothing has been moved before it.
fn transfer(offset: u64, size: u32, mut step: impl FnMut(u64, usize) -> io::Result<usize>) -> Result<usize, Errno> {
    let mut done = 0;
    while done < size as usize {
        let at = signed(offset.checked_add(done as u64).ok_or(Errno::INVAL)?)?;
        match step(at, size as usize - done) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(_) if done > 0 => break,
            Err(err) => return Err(errno(&err)),
        }
    }
    Ok(done)
}

/// Offsets have a sign in the kernel.
fn signed(offset: u64) -> Result<u64, Errno> {
    if i64::try_from(offset).is_ok() { Ok(offset) } else { Err(Errno::INVAL) }
}

/// Without CAP_FSETID the kernel takes set-user-ID and set-group-ID from a file that is written to.
fn without_fsetid(wanted: bool) -> Result<Option<ScopedCaps>, Errno> {
    if wanted { drop_effective_cap("FSETID").map_err(|err| errno(&err)) } else { Ok(None) }
}

fn errno(err: &io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}
