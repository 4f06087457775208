//! From a guest physical address to a device's window.

use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio as reg;

use super::MmioTransport;
use super::transport::{MAGIC, VERSION};
use crate::layout;

/// The virtio-mmio windows, in the order of their addresses.
///
/// A window is locked while a vCPU's access to it is answered; the device may wait for the device loop meanwhile. So
/// nobody locks one on the device loop, and nobody calls into a device with the lock of another window held.
#[derive(Default)]
pub struct MmioBus {
    windows: Vec<Window>,
}

struct Window {
    use_: Use,
    transport: Mutex<Option<MmioTransport>>,
}

/// What a window is there for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A device that is there from the start, for good.
    Fixed,
    /// Any device that comes later; such a device can go again.
    Reserved,
    /// One certain device, which may come later, for good.
    Kept,
}

impl Window {
    fn new(use_: Use, transport: Option<MmioTransport>) -> Self {
        Window { use_, transport: Mutex::new(transport) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<MmioTransport>> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MmioBus {
    /// Puts `transport` into the next window, for good.
    pub fn add(&mut self, transport: MmioTransport) {
        self.windows.push(Window::new(Use::Fixed, Some(transport)));
    }

    /// Keeps the next window for a device that comes later. Until then it reads as one without a device.
    pub fn reserve(&mut self) {
        self.windows.push(Window::new(Use::Reserved, None));
    }

    /// Keeps the next window for one certain device, which others do not find. Until then it reads as one without a device.
    pub fn keep(&mut self) {
        self.windows.push(Window::new(Use::Kept, None));
    }

    /// How many windows there are.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// How many of them are reserved for any devices that come later, whether they are empty or not.
    pub fn reserved(&self) -> usize {
        self.windows.iter().filter(|window| window.use_ == Use::Reserved).count()
    }

    /// The first of those without a device.
    pub fn first_empty(&self) -> Option<usize> {
        self.windows.iter().position(|window| window.use_ == Use::Reserved && window.lock().is_none())
    }

    /// Puts `transport` into `window`: a vCPU sees all of the device from then on, and nothing of it before.
    ///
    /// # Errors
    /// Gives `transport` back when the window is not an empty one.
    pub fn put(&self, window: usize, transport: MmioTransport) -> Result<(), Box<MmioTransport>> {
        match self.windows.get(window).map(Window::lock) {
            Some(mut place) if place.is_none() => {
                *place = Some(transport);
                Ok(())
            }
            _ => Err(Box::new(transport)),
        }
    }

    /// Empties `window`: once this returns, no vCPU is in the device or reaches it. `None` unless the window is one of
    /// those reserved and holds a device.
    pub fn take(&self, window: usize) -> Option<MmioTransport> {
        self.windows.get(window).filter(|window| window.use_ == Use::Reserved)?.lock().take()
    }

    /// A vCPU reads. Outside all windows it reads zeroes, as from nothing.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some((window, offset)) = self.find(address) {
            match window.lock().as_ref() {
                Some(transport) => transport.read(offset, data),
                None => read_empty(offset, data),
            }
        }
    }

    /// A vCPU writes. Outside all windows, and to an empty one, it changes nothing.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.find(address)
            && let Some(transport) = window.lock().as_mut()
        {
            transport.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Window, u64)> {
        let offset = address.checked_sub(layout::MMIO_START)?;
        let index = usize::try_from(offset / layout::MMIO_WINDOW).ok()?;
        Some((self.windows.get(index)?, offset % layout::MMIO_WINDOW))
    }
}

/// A window without a device: a device ID of 0, which drivers pass over in silence (virtio 1.2, 4.2.2.2). All else is
/// zero.
fn read_empty(offset: u64, data: &mut [u8]) {
    let value = match u32::try_from(offset) {
        Ok(reg::VIRTIO_MMIO_MAGIC_VALUE) => MAGIC,
        Ok(reg::VIRTIO_MMIO_VERSION) => VERSION,
        _ => return,
    };
    if let Ok(register) = <&mut [u8; 4]>::try_from(data) {
        *register = value.to_le_bytes();
    }
}
