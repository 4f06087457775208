//! The system calls of taps, and of what stands beside them, that need unsafe code.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Where the kernel is to put the number in the name of a new interface, and where it puts the whole name.
pub type Name = [u8; libc::IFNAMSIZ];

/// Makes a tap behind an open `/dev/net/tun`, in the network namespace of this thread: whole Ethernet frames, each with a virtio-net header
/// before it. `pattern` is its name, with `%d` for a number that is free. Gives the name. A tap that was made with `several` queues gets
/// one more when it is made again by its name.
pub fn make_tap(tun: BorrowedFd<'_>, pattern: &CStr, several: bool) -> io::Result<Name> {
    // SAFETY: ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(pattern.to_bytes().iter().take(libc::IFNAMSIZ - 1)) {
        *to = *from as libc::c_char;
    }
    let more = if several { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(request.ifr_name.map(|byte| byte as u8))
}

/// Sets the length of the virtio-net header before each frame.
pub fn set_header_length(tap: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Has the interface with this number receive the frames of all multicast groups while a packet socket is open.
pub fn receive_all_groups(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let mr_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
    let mr_type = libc::PACKET_MR_ALLMULTI as libc::c_ushort;
    let request = libc::packet_mreq { mr_ifindex, mr_type, mr_alen: 0, mr_address: [0; 8] };
    let (level, option) = (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP);
    let length = size_of::<libc::packet_mreq>() as libc::socklen_t;
    // SAFETY: the option reads one packet_mreq, which `request` is.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const request).cast(), length) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
