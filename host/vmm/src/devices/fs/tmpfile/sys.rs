//! The one system call here that takes a bare descriptor number.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// A new descriptor for the open file that `number` stands for at this moment; EBADF if for none. Whoever owns `number` may close
/// it at any time: what the new descriptor refers to is only known by asking it.
pub fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes two integers and touches no memory; any number is allowed, and `number` itself is left alone.
    let new = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if new < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::BADF));
    }
    // SAFETY: the call above has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}
