//! The system calls of taps, and of what stands beside them, that need unsafe code.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Loads an eBPF program that tc can run as an action; `code` is whole instructions.
pub fn load_action(code: &[u64]) -> io::Result<OwnedFd> {
    /// The first fields of union bpf_attr for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SCHED_ACT: u32 = 4;
    let load = Load {
        prog_type: BPF_PROG_TYPE_SCHED_ACT,
        insn_cnt: u32::try_from(code.len()).map_err(io::Error::other)?,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"sandbox_answers\0",
    };
    // SAFETY: `load` has the layout that the call reads, as many bytes of it as are given, and its pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    check(fd as libc::c_int)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What such a program says of a frame.
#[cfg(test)]
pub fn run_action(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<i32> {
    /// The first fields of union bpf_attr for BPF_PROG_TEST_RUN.
    #[repr(C)]
    struct Run {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut run = Run {
        prog_fd: program.as_raw_fd() as u32,
        retval: 0,
        data_size_in: frame.len() as u32,
        data_size_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: `run` has the layout that the call reads and writes, and the frame outlives the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut run, size_of::<Run>()) } as libc::c_int)?;
    Ok(run.retval as i32)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
