//! From a guest physical address to a device's window.

use std::sync::{Mutex, PoisonError};

use super::MmioTransport;
use crate::layout;

/// The virtio-mmio windows, in the order of their addresses.
#[derive(Default)]
pub struct MmioBus {
    windows: Vec<Mutex<MmioTransport>>,
}

impl MmioBus {
    /// Puts `transport` into the next free window.
    pub fn add(&mut self, transport: MmioTransport) {
        self.windows.push(Mutex::new(transport));
    }

    /// A vCPU reads. Outside all windows it reads zeroes, as from nothing.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some((window, offset)) = self.find(address) {
            window.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        }
    }

    /// A vCPU writes. Outside all windows it changes nothing.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.find(address) {
            window.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(layout::MMIO_START)?;
        let index = usize::try_from(offset / layout::MMIO_WINDOW).ok()?;
        Some((self.windows.get(index)?, offset % layout::MMIO_WINDOW))
    }
}
