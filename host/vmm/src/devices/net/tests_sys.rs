//! What the tests need unsafe code for: a tap.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// A tap as `NetConfig` asks for it, named tap0, in the network namespace of the calling thread; one more queue of it where there are
/// `several`.
pub fn open_tap(several: bool) -> std::io::Result<OwnedFd> {
    let tap: File = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(b"tap0") {
        *to = *from as libc::c_char;
    }
    let more = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as libc::c_short;
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the request reads a struct ifreq, which lives through the call.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw const request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let header: libc::c_int = 12;
    // SAFETY: the request reads an int, which lives through the call.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(tap.into())
}
