//! The system calls of fanotify(7) and file handles, which take pointers.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A pair of file system and file handle: what stands for a file in fanotify's events, as bytes.
pub type FileId = Vec<u8>;

/// FAN_RENAME of linux/fanotify.h: one event for both names of a rename; from Linux 5.17 on.
pub const FAN_RENAME: u64 = 0x1000_0000;
/// AT_HANDLE_FID of linux/fcntl.h: a handle that only stands for the file; from Linux 6.5 on.
const AT_HANDLE_FID: libc::c_int = 0x200;
/// MAX_HANDLE_SZ.
const HANDLE_MAX: usize = 128;

/// A group: what is marked in it is reported to it.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl Group {
    /// A group whose events say which directory and which name, or which file.
    pub fn new() -> io::Result<Self> {
        let report = libc::FAN_REPORT_FID | libc::FAN_REPORT_DIR_FID | libc::FAN_REPORT_NAME;
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | report;
        // SAFETY: takes two integers.
        let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        Ok(Group(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds events of an open file (O_PATH will do) to what is reported.
    pub fn mark(&self, file: BorrowedFd<'_>, mask: u64) -> io::Result<()> {
        self.change(libc::FAN_MARK_ADD, file, mask)
    }

    fn change(&self, flags: libc::c_uint, file: BorrowedFd<'_>, mask: u64) -> io::Result<()> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(io::Error::other)?;
        // SAFETY: `path` is a C string that outlives the call.
        check(unsafe { libc::fanotify_mark(self.0.as_raw_fd(), flags, mask as _, libc::AT_FDCWD, path.as_ptr()) })
    }

    /// Takes events of an open file away from what is reported.
    pub fn unmark(&self, file: BorrowedFd<'_>, mask: u64) -> io::Result<()> {
        self.change(libc::FAN_MARK_REMOVE, file, mask)
    }

    /// Takes all away.
    pub fn clear(&self) -> io::Result<()> {
        // SAFETY: without a path, which FAN_MARK_FLUSH does not look at.
        check(unsafe {
            libc::fanotify_mark(self.0.as_raw_fd(), libc::FAN_MARK_FLUSH, 0, libc::AT_FDCWD, std::ptr::null())
        })
    }

    /// Waits for events; gives the number of bytes.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *buffer))?)
    }
}

#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_MAX],
}

/// What events call an open file (O_PATH will do).
pub fn file_id(file: BorrowedFd<'_>) -> io::Result<FileId> {
    // SAFETY: statfs is plain data.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one statfs.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut statfs) })?;
    // SAFETY: fsid_t is two ints, private ones, and has no padding.
    let fsid: [u8; 8] = unsafe { std::mem::transmute(statfs.f_fsid) };
    // What the kernel encodes for fanotify, where it can; else it is the same as without the flag.
    let handle = handle(file, AT_HANDLE_FID).or_else(|_| handle(file, 0))?;
    let mut id = fsid.to_vec();
    id.extend(handle.bytes.to_ne_bytes());
    id.extend(handle.kind.to_ne_bytes());
    id.extend(handle.data.iter().take(handle.bytes as usize));
    Ok(id)
}

fn handle(file: BorrowedFd<'_>, flag: libc::c_int) -> io::Result<Handle> {
    const _: () = assert!(size_of::<Handle>() == 8 + HANDLE_MAX);
    let mut handle = Handle { bytes: HANDLE_MAX as u32, kind: 0, data: [0; HANDLE_MAX] };
    let mut mount: libc::c_int = 0;
    // SAFETY: `handle` has the layout of struct file_handle with as much room as it says, the path is an empty C string, and the kernel
    // writes one int to `mount`.
    check(unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH | flag,
        )
    })?;
    Ok(handle)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
