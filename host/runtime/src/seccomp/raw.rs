//! System calls by number, for tests of what becomes of them.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a call whose arguments are numbers; none of those tried here reads or writes memory of this process.
pub fn call(number: libc::c_long, args: [libc::c_long; 4]) {
    // SAFETY: pointers among the arguments are null, and a new mapping is put where the kernel finds room.
    // (Arguments 5 and 6: no descriptor and a page's offset for mmap, no address and its length for sendto.)
    unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], -1, 4096) };
}

/// Makes an ioctl without an argument.
pub fn ioctl(fd: BorrowedFd<'_>, command: libc::c_ulong) {
    // SAFETY: the commands tried here take no pointer.
    unsafe { libc::ioctl(fd.as_raw_fd(), command, 0) };
}
