//! The descriptors that the monitor starts with.

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use agent_protocol::MAX_BLOCK_DEVICES;
use kvm_ioctls::Kvm;

use crate::control::fds;
use crate::sys::inherited;

/// What `sandbox run` handed over (see [`fds`]).
pub struct Inherited {
    /// The control socket.
    pub control: UnixStream,
    /// Where clients of the guest connect.
    pub vsock: UnixListener,
    /// The kernel.
    pub kernel: File,
    /// The initramfs.
    pub initramfs: File,
    /// /dev/kvm.
    pub kvm: Kvm,
    /// Block devices.
    pub disks: Vec<File>,
}

impl Inherited {
    /// Takes the descriptors over; `None` when one is not open. Call it once, first of all.
    pub fn take() -> Option<Self> {
        if !(fds::CONTROL..fds::DISKS).all(is_open) {
            return None;
        }
        let disks = (fds::DISKS..).take(MAX_BLOCK_DEVICES).map_while(inherited).map(File::from).collect();
        // SAFETY: all five are open, and nothing else in this process owns them: they come from the parent, this is the first
        // thing the process does, and the caller calls it once.
        unsafe {
            Some(Inherited {
                control: UnixStream::from_raw_fd(fds::CONTROL),
                vsock: UnixListener::from_raw_fd(fds::VSOCK_LISTENER),
                kernel: File::from_raw_fd(fds::KERNEL),
                initramfs: File::from_raw_fd(fds::INITRAMFS),
                kvm: Kvm::from_raw_fd(fds::KVM),
                disks,
            })
        }
    }
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag of a descriptor, open or not, and touches no memory.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}
