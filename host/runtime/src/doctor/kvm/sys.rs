//! The unsafe calls of the scratch VM.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::thread::JoinHandle;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// A KVM handle of its own on the open device.
pub fn kvm(device: &File) -> io::Result<Kvm> {
    let fd = device.try_clone()?.into_raw_fd();
    // SAFETY: the descriptor is open, and nobody else owns it.
    Ok(unsafe { Kvm::from_raw_fd(fd) })
}

/// Gives the VM its memory. `memory` must be dropped after the VM.
pub fn set_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> io::Result<()> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let userspace_addr = memory.get_host_address(region.start_addr()).map_err(io::Error::other)? as u64;
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr,
            flags: 0,
        };
        // SAFETY: the region is mapped as long as `memory` lives, which the caller keeps longer than the VM.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    Ok(())
}

/// Makes [`kick`] interrupt a thread's KVM_RUN instead of ending the process.
pub fn prepare_kicks() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(io::Error::from)
}

/// Interrupts the system call that the thread is in.
pub fn kick<T>(thread: &JoinHandle<T>) {
    // The thread may have ended: nothing to interrupt then.
    let _ = thread.kill(SIGRTMIN());
}
