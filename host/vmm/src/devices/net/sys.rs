//! The ioctls of tap and vhost-net: the only unsafe code of the device. A seccomp filter has to allow these and no
//! others.
//!
//! The device loop's thread makes those in [`IOCTLS`], at activation and when the driver changes the number of its queue pairs, and
//! `VHOST_NET_SET_BACKEND` once more at reset:
//!
//! | request | number | argument |
//! |---|---|---|
//! | TUNSETOFFLOAD | 0x400454d0 | the flags |
//! | TUNSETQUEUE | 0x400454d9 | `struct ifreq` |
//! | VHOST_SET_OWNER | 0x0000af01 | none |
//! | VHOST_SET_FEATURES | 0x4008af00 | `u64` |
//! | VHOST_SET_MEM_TABLE | 0x4008af03 | [`MemoryTable`] |
//! | VHOST_SET_VRING_NUM | 0x4008af10 | [`RingState`] |
//! | VHOST_SET_VRING_ADDR | 0x4028af11 | [`RingPlaces`] |
//! | VHOST_SET_VRING_BASE | 0x4008af12 | [`RingState`] |
//! | VHOST_SET_VRING_KICK | 0x4008af20 | [`RingFile`] |
//! | VHOST_SET_VRING_CALL | 0x4008af21 | [`RingFile`] |
//! | VHOST_NET_SET_BACKEND | 0x4008af30 | [`RingFile`] |
//!
//! The thread that makes the device makes the one in [`MAIN_IOCTLS`]: VHOST_GET_FEATURES, 0x8008af00, `u64`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vm_memory::{Address, GuestMemory as _, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::GuestMemory;

const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETQUEUE: u32 = 0x4004_54d9;
const VHOST_GET_FEATURES: u32 = 0x8008_af00;
const VHOST_SET_FEATURES: u32 = 0x4008_af00;
const VHOST_SET_OWNER: u32 = 0x0000_af01;
const VHOST_SET_MEM_TABLE: u32 = 0x4008_af03;
const VHOST_SET_VRING_NUM: u32 = 0x4008_af10;
const VHOST_SET_VRING_ADDR: u32 = 0x4028_af11;
const VHOST_SET_VRING_BASE: u32 = 0x4008_af12;
const VHOST_SET_VRING_KICK: u32 = 0x4008_af20;
const VHOST_SET_VRING_CALL: u32 = 0x4008_af21;
const VHOST_NET_SET_BACKEND: u32 = 0x4008_af30;

/// The ioctl requests of the device loop's thread.
pub const IOCTLS: [u32; 11] = [
    TUNSETOFFLOAD,
    TUNSETQUEUE,
    VHOST_SET_OWNER,
    VHOST_SET_FEATURES,
    VHOST_SET_MEM_TABLE,
    VHOST_SET_VRING_NUM,
    VHOST_SET_VRING_ADDR,
    VHOST_SET_VRING_BASE,
    VHOST_SET_VRING_KICK,
    VHOST_SET_VRING_CALL,
    VHOST_NET_SET_BACKEND,
];

/// The ioctl requests of the thread that calls [`super::Net::new`], if it has a vhost descriptor.
pub const MAIN_IOCTLS: [u32; 1] = [VHOST_GET_FEATURES];

/// struct vhost_vring_state.
#[repr(C)]
struct RingState {
    index: u32,
    num: u32,
}

/// struct vhost_vring_file; -1 for none.
#[repr(C)]
struct RingFile {
    index: u32,
    fd: i32,
}

/// struct vhost_vring_addr.
#[repr(C)]
struct RingPlaces {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// struct vhost_memory_region.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest_address: u64,
    len: u64,
    host_address: u64,
    flags: u64,
}

/// [`crate::layout::memory_ranges`] makes two at most, and [`crate::layout::growth_range`] one.
const MAX_REGIONS: usize = 3;

/// struct vhost_memory with its regions.
#[repr(C)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

/// Addresses in this process of a queue's parts, each of them all in guest memory.
#[derive(Debug)]
pub(super) struct RingAddresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

/// # Safety
/// `request` must take a pointer to a `T` and only read it. Of a `T` that holds addresses, what the kernel does there
/// must be allowed.
unsafe fn set<T>(fd: &impl AsFd, request: u32, argument: &T) -> io::Result<()> {
    // SAFETY: the caller's word; the reference is valid for the call, and the descriptor open.
    outcome(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(request), std::ptr::from_ref(argument)) })
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Says what `tap` may leave to the guest (TUN_F flags); see TUNSETOFFLOAD in the kernel's `if_tun.h`.
///
/// # Errors
/// What the system says.
pub(super) fn set_offload(tap: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the argument is a number, and no memory is touched.
    outcome(unsafe { libc::ioctl(tap.as_raw_fd(), libc::Ioctl::from(TUNSETOFFLOAD), libc::c_ulong::from(flags)) })
}

/// Says whether `tap`, which is one queue of a tap with several, takes part in sending and receiving.
///
/// # Errors
/// What the system says; EINVAL when it is so already.
pub(super) fn set_queue(tap: &File, attached: bool) -> io::Result<()> {
    let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    let request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru };
    // SAFETY: the request reads a struct ifreq, which lives through the call.
    unsafe { set(tap, TUNSETQUEUE, &request) }
}

/// The features that vhost offers.
///
/// # Errors
/// What the system says.
pub(super) fn get_features(vhost: &impl AsFd) -> io::Result<u64> {
    let mut features = 0u64;
    let request = libc::Ioctl::from(VHOST_GET_FEATURES);
    // SAFETY: the request writes a u64 to the pointer, which is one to a u64 that lives through the call.
    outcome(unsafe { libc::ioctl(vhost.as_fd().as_raw_fd(), request, std::ptr::from_mut(&mut features)) })?;
    Ok(features)
}

/// Ties vhost to this process: the addresses that it is given are this process's.
///
/// # Errors
/// What the system says; EBUSY the second time.
pub(super) fn set_owner(vhost: &impl AsFd) -> io::Result<()> {
    // SAFETY: the request has no argument.
    outcome(unsafe { libc::ioctl(vhost.as_fd().as_raw_fd(), libc::Ioctl::from(VHOST_SET_OWNER), 0) })
}

/// The features that vhost is to use.
///
/// # Errors
/// What the system says.
pub(super) fn set_features(vhost: &impl AsFd, features: u64) -> io::Result<()> {
    // SAFETY: the request reads a u64.
    unsafe { set(vhost, VHOST_SET_FEATURES, &features) }
}

/// Tells vhost where in this process guest memory is: it translates the addresses in descriptors by it.
///
/// # Errors
/// What the system says; InvalidInput for memory of more regions than a VM has.
pub(super) fn set_memory(vhost: &impl AsFd, memory: &GuestMemory) -> io::Result<()> {
    let mut table = MemoryTable { count: 0, padding: 0, regions: [Region::default(); MAX_REGIONS] };
    for (index, region) in memory.iter().enumerate() {
        let entry = table.regions.get_mut(index).ok_or(io::ErrorKind::InvalidInput)?;
        *entry = Region {
            guest_address: region.start_addr().raw_value(),
            len: region.len(),
            host_address: region.as_ptr() as u64,
            flags: 0,
        };
        table.count += 1;
    }
    // SAFETY: the request reads the table, whose `count` is at most the length of `regions`. The kernel touches what
    // the table speaks of while a ring has a backend, in the time of a `vhost::Session`, which holds the memory so that
    // it stays mapped; and the guest may write any byte of it at any time anyway, so nothing in this process makes
    // references into it.
    unsafe { set(vhost, VHOST_SET_MEM_TABLE, &table) }
}

/// How many entries the ring has.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring_size(vhost: &impl AsFd, index: u32, size: u16) -> io::Result<()> {
    // SAFETY: the request reads a vhost_vring_state.
    unsafe { set(vhost, VHOST_SET_VRING_NUM, &RingState { index, num: size.into() }) }
}

/// Which entry of the available ring comes next.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring_base(vhost: &impl AsFd, index: u32, next: u16) -> io::Result<()> {
    // SAFETY: the request reads a vhost_vring_state.
    unsafe { set(vhost, VHOST_SET_VRING_BASE, &RingState { index, num: next.into() }) }
}

/// Where the ring is.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring_addresses(vhost: &impl AsFd, index: u32, at: &RingAddresses) -> io::Result<()> {
    let RingAddresses { descriptors, available, used } = *at;
    let places = RingPlaces { index, flags: 0, descriptors, used, available, log: 0 };
    // SAFETY: the request reads a vhost_vring_addr. What it points to is guest memory over the whole length of the
    // rings, as `RingAddresses` says; of its use the same holds as in `set_memory`.
    unsafe { set(vhost, VHOST_SET_VRING_ADDR, &places) }
}

/// The eventfd by which the driver kicks the ring.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring_kick(vhost: &impl AsFd, index: u32, kick: &EventFd) -> io::Result<()> {
    // SAFETY: the request reads a vhost_vring_file; the kernel takes a reference of its own to the eventfd.
    unsafe { set(vhost, VHOST_SET_VRING_KICK, &RingFile { index, fd: kick.as_raw_fd() }) }
}

/// The eventfd that interrupts the guest.
///
/// # Errors
/// What the system says.
pub(super) fn set_ring_call(vhost: &impl AsFd, index: u32, call: &EventFd) -> io::Result<()> {
    // SAFETY: the request reads a vhost_vring_file; the kernel takes a reference of its own to the eventfd.
    unsafe { set(vhost, VHOST_SET_VRING_CALL, &RingFile { index, fd: call.as_raw_fd() }) }
}

/// Starts the ring between guest memory and `tap`; without one, stops it, and returns when the kernel is done with it.
///
/// # Errors
/// What the system says.
pub(super) fn set_backend(vhost: &impl AsFd, index: u32, tap: Option<&File>) -> io::Result<()> {
    let fd = tap.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: the request reads a vhost_vring_file; the kernel takes a reference of its own to the tap. From here on it
    // uses the addresses given before, for which their functions answer.
    unsafe { set(vhost, VHOST_NET_SET_BACKEND, &RingFile { index, fd }) }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        let vhost = |direction, number, size: usize| ioctl_expr(direction, 0xaf, number, size as u32);
        let state = size_of::<RingState>();
        let file = size_of::<RingFile>();
        let expected = [
            ioctl_expr(_IOC_WRITE, u32::from(b'T'), 208, 4),
            ioctl_expr(_IOC_WRITE, u32::from(b'T'), 217, 4),
            vhost(_IOC_NONE, 1, 0),
            vhost(_IOC_WRITE, 0, 8),
            vhost(_IOC_WRITE, 3, std::mem::offset_of!(MemoryTable, regions)),
            vhost(_IOC_WRITE, 0x10, state),
            vhost(_IOC_WRITE, 0x11, size_of::<RingPlaces>()),
            vhost(_IOC_WRITE, 0x12, state),
            vhost(_IOC_WRITE, 0x20, file),
            vhost(_IOC_WRITE, 0x21, file),
            vhost(_IOC_WRITE, 0x30, file),
        ];
        assert_eq!(IOCTLS.map(libc::c_ulong::from), expected);
        assert_eq!(MAIN_IOCTLS.map(libc::c_ulong::from), [vhost(_IOC_READ, 0, 8)]);
        assert_eq!(libc::Ioctl::from(TUNSETOFFLOAD), libc::TUNSETOFFLOAD);
        assert_eq!(libc::Ioctl::from(TUNSETQUEUE), libc::TUNSETQUEUE);
        assert_eq!(size_of::<Region>(), 32);
    }
}
