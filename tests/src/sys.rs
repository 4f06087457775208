//! The unsafe code of the tests: memory maps and deliberate crashes.

use std::os::fd::AsFd;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A mapping of a file's first bytes.
pub struct Map {
    address: *mut u8,
    length: usize,
}

impl Map {
    /// Maps `length` bytes of a file, shared or private, for reading and writing.
    pub fn new(file: impl AsFd, length: usize, shared: bool) -> rustix::io::Result<Map> {
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: the kernel chooses the address, so no memory that is in use is mapped over.
        let address = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags, file, 0)?
        };
        Ok(Map { address: address.cast(), length })
    }

    /// Copies bytes into the mapping.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, as asserted above; volatile because others may change the same file.
            unsafe { self.address.add(offset + index).write_volatile(*byte) };
        }
    }

    /// Copies bytes out of the mapping.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length);
        // SAFETY: within the mapping, as asserted above; volatile because others may change the same file.
        (0..length).map(|index| unsafe { self.address.add(offset + index).read_volatile() }).collect()
    }

    /// Writes changed pages of a shared mapping back to the file.
    pub fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: address and length are those of the mapping.
        unsafe { rustix::mm::msync(self.address.cast(), self.length, MsyncFlags::SYNC) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), self.length) };
    }
}

/// Dies of a real SIGSEGV, which also ends the first process of a pid namespace.
pub fn segmentation_fault() -> ! {
    let page = 4096usize;
    // SAFETY: an anonymous page without access, at an address of the kernel's choice.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), page, ProtFlags::empty(), MapFlags::PRIVATE)
            .expect("map a page without access")
    };
    // SAFETY: not at all, and that is the purpose: the page may not be read, so the kernel sends SIGSEGV. Rust is not told
    // anything untrue: the read is volatile and of a mapped address.
    unsafe { address.cast::<u8>().read_volatile() };
    unreachable!("the page could be read");
}
