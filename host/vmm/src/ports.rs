//! The guest's I/O ports: the early serial console and the keyboard controller's reset line. Nothing else is there.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{I8042Device, Serial, Trigger};

use crate::console_log::ConsoleLog;

const COM1: u16 = 0x3f8;
const COM1_END: u16 = COM1 + 7;
const I8042: u16 = 0x60;
const I8042_END: u16 = 0x64;

/// Remembers that it was triggered; the kernel polls the serial port, so no interrupt hangs on it.
#[derive(Clone, Default)]
struct Flag(Arc<AtomicBool>);

impl Trigger for Flag {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Release);
        Ok(())
    }
}

/// All ports of a VM, shared by its vCPUs.
pub struct Ports {
    devices: Mutex<(Serial<Flag, NoEvents, ConsoleLog>, I8042Device<Flag>)>,
    reset: Flag,
}

impl Ports {
    /// Ports whose serial output goes to `log`.
    pub fn new(log: ConsoleLog) -> Self {
        let reset = Flag::default();
        let devices = (Serial::new(Flag::default(), log), I8042Device::new(reset.clone()));
        Ports { devices: Mutex::new(devices), reset }
    }

    /// A vCPU writes to a port. Returns whether it asked for a reset.
    pub fn write(&self, port: u16, data: &[u8]) -> bool {
        let [value] = data else { return false };
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        match port {
            // A full or failing console is not the guest's concern.
            COM1..=COM1_END => drop(devices.0.write((port - COM1) as u8, *value)),
            I8042..=I8042_END => drop(devices.1.write((port - I8042) as u8, *value)),
            _ => {}
        }
        self.reset.0.load(Ordering::Acquire)
    }

    /// A vCPU reads from a port. Ports without a device read as all ones.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [value] = data else { return };
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        match port {
            COM1..=COM1_END => *value = devices.0.read((port - COM1) as u8),
            I8042..=I8042_END => *value = devices.1.read((port - I8042) as u8),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_output_is_logged() {
        let log = ConsoleLog::new(false);
        let ports = Ports::new(log.clone());
        for byte in b"panic\n" {
            let mut status = [0];
            ports.read(COM1 + 5, &mut status);
            assert_ne!(status[0] & 0x20, 0, "the transmitter is ready");
            assert!(!ports.write(COM1, &[*byte]));
        }
        assert_eq!(log.last_lines(1), ["panic"]);
    }

    #[test]
    fn only_the_reset_pulse_resets() {
        let ports = Ports::new(ConsoleLog::new(false));
        for port in 0..=u16::MAX {
            let mut data = [0; 4];
            ports.read(port, &mut data[..1]);
            ports.read(port, &mut data);
            assert!(!ports.write(port, &[0x55]), "{port:#x}");
            assert!(!ports.write(port, &[0xfe, 0xfe]), "{port:#x}");
        }
        let mut status = [0xff];
        ports.read(0x64, &mut status);
        assert_eq!(status[0] & 2, 0, "the kernel waits until the input buffer is empty");
        assert!(ports.write(0x64, &[0xfe]));
    }
}
