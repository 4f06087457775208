//! The transport against a driver that keeps the rules, and one that does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio as reg;

use super::*;
use crate::devices::{ActivateError, Activation, F_VERSION_1, VirtioDevice};
use crate::{layout, memory};

#[derive(Default)]
struct Counts {
    activated: AtomicU32,
    reset: AtomicU32,
}

struct Probe {
    counts: Arc<Counts>,
    fail: bool,
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        4
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 128]
    }
    fn features(&self) -> u64 {
        F_VERSION_1 | 1
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::devices::read_config_from(&[1, 2, 3, 4, 5], offset, data);
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        activation.expect_queues(2)?;
        if self.fail {
            return Err(ActivateError::Worker(std::io::Error::other("no worker")));
        }
        self.counts.activated.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn reset(&mut self) {
        self.counts.reset.fetch_add(1, Ordering::Relaxed);
    }
}

fn transport(fail: bool) -> (MmioTransport, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let device = Box::new(Probe { counts: Arc::clone(&counts), fail });
    (MmioTransport::new(device, memory::allocate(64).unwrap()).unwrap(), counts)
}

fn read(transport: &MmioTransport, offset: u32) -> u32 {
    let mut data = [0; 4];
    transport.read(u64::from(offset), &mut data);
    u32::from_le_bytes(data)
}

fn write(transport: &mut MmioTransport, offset: u32, value: u32) {
    transport.write(u64::from(offset), &value.to_le_bytes());
}

fn negotiate(transport: &mut MmioTransport, features: u64) {
    for status in [1, 3] {
        write(transport, reg::VIRTIO_MMIO_STATUS, status);
    }
    for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        write(transport, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
        write(transport, reg::VIRTIO_MMIO_DRIVER_FEATURES, half);
    }
    write(transport, reg::VIRTIO_MMIO_STATUS, 11);
}

fn set_up_queue(transport: &mut MmioTransport, index: u32, address: u32) {
    write(transport, reg::VIRTIO_MMIO_QUEUE_SEL, index);
    write(transport, reg::VIRTIO_MMIO_QUEUE_NUM, 16);
    write(transport, reg::VIRTIO_MMIO_QUEUE_DESC_LOW, address);
    write(transport, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, address.wrapping_add(0x1000));
    write(transport, reg::VIRTIO_MMIO_QUEUE_USED_LOW, address.wrapping_add(0x2000));
    write(transport, reg::VIRTIO_MMIO_QUEUE_READY, 1);
}

fn bring_up(transport: &mut MmioTransport) {
    negotiate(transport, F_VERSION_1);
    set_up_queue(transport, 0, 0x10_0000);
    set_up_queue(transport, 1, 0x20_0000);
    write(transport, reg::VIRTIO_MMIO_STATUS, 15);
}

#[test]
fn identifies_itself() {
    let (transport, _) = transport(false);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

#[test]
fn a_driver_that_keeps_the_rules_activates_and_resets() {
    let (mut transport, counts) = transport(false);
    for round in 1..=3 {
        bring_up(&mut transport);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS), 15);
        assert_eq!(counts.activated.load(Ordering::Relaxed), round);
        write(&mut transport, reg::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS), 0);
        assert_eq!(counts.reset.load(Ordering::Relaxed), round);
    }
}

#[test]
fn driver_ok_counts_once() {
    let (mut transport, counts) = transport(false);
    bring_up(&mut transport);
    write(&mut transport, reg::VIRTIO_MMIO_STATUS, 15);
    write(&mut transport, reg::VIRTIO_MMIO_STATUS, 7);
    assert_eq!(counts.activated.load(Ordering::Relaxed), 1);
}

#[test]
fn features_not_offered_or_legacy_drivers_are_refused() {
    for features in [0, F_VERSION_1 | 2, 1] {
        let (mut transport, _) = transport(false);
        negotiate(&mut transport, features);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS), 3, "features {features:#x}");
    }
}

#[test]
fn steps_out_of_order_are_ignored() {
    let (mut transport, counts) = transport(false);
    for status in [2, 4, 8, 15, 0x40, 0xffff_ff00] {
        write(&mut transport, reg::VIRTIO_MMIO_STATUS, status);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS), 0, "status {status:#x}");
    }
    set_up_queue(&mut transport, 0, 0x10_0000);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_QUEUE_READY), 0, "no queue before FEATURES_OK");
    assert_eq!(counts.activated.load(Ordering::Relaxed), 0);
}

#[test]
fn rings_outside_memory_or_unready_queues_need_a_reset() {
    let setups: [&dyn Fn(&mut MmioTransport); 3] =
        [&|_| {}, &|t| set_up_queue(t, 1, 64 << 20), &|t| set_up_queue(t, 1, 0xffff_f000)];
    for set_up in setups {
        let (mut transport, counts) = transport(false);
        negotiate(&mut transport, F_VERSION_1);
        set_up_queue(&mut transport, 0, 0x10_0000);
        set_up(&mut transport);
        write(&mut transport, reg::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS) & 0x40, 0x40);
        assert_eq!(read(&transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2, "a configuration change is signalled");
        assert_eq!(counts.activated.load(Ordering::Relaxed), 0);
        write(&mut transport, reg::VIRTIO_MMIO_STATUS, 0);
        bring_up(&mut transport);
        assert_eq!(counts.activated.load(Ordering::Relaxed), 1, "a reset mends it");
    }
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let (mut transport, _) = transport(true);
    bring_up(&mut transport);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_STATUS) & 0x40, 0x40);
}

#[test]
fn configuration_space_reads_what_there_is() {
    let (transport, _) = transport(false);
    let config = u64::from(reg::VIRTIO_MMIO_CONFIG);
    for (offset, expected) in [(0, [1, 2, 3, 4]), (3, [4, 5, 0, 0]), (5, [0; 4]), (0xe00, [0; 4])] {
        let mut data = [0; 4];
        transport.read(config + offset, &mut data);
        assert_eq!(data, expected);
    }
    let mut byte = [0; 1];
    transport.read(config + 1, &mut byte);
    assert_eq!(byte, [2]);
}

#[test]
fn any_access_of_any_width_is_survived() {
    let (mut transport, _) = transport(false);
    for round in 0..2 {
        for offset in 0..0x200u64 {
            for width in [1usize, 2, 4, 8] {
                let mut data = vec![0xa5; width];
                transport.read(offset, &mut data);
                transport.write(offset, &vec![(offset as u8).wrapping_mul(31).wrapping_add(round); width]);
            }
        }
    }
}

#[test]
fn the_bus_finds_windows_and_nothing_beyond() {
    let mut bus = MmioBus::default();
    bus.add(transport(false).0);
    bus.add(transport(false).0);
    let mut data = [0xff; 4];
    bus.read(layout::mmio_address(1) + 8, &mut data);
    assert_eq!(u32::from_le_bytes(data), 4);
    for address in [0, layout::MMIO_START - 4, layout::mmio_address(2), u64::MAX] {
        bus.read(address, &mut data);
        assert_eq!(data, [0; 4], "{address:#x}");
        bus.write(address, &data);
    }
}

fn bus_read(bus: &MmioBus, window: usize, offset: u32) -> u32 {
    let mut data = [0xff; 4];
    bus.read(layout::mmio_address(window) + u64::from(offset), &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn an_empty_window_is_a_device_that_drivers_pass_over() {
    let mut bus = MmioBus::default();
    bus.add(transport(false).0);
    bus.reserve();
    assert_eq!((bus.windows(), bus.reserved(), bus.first_empty()), (2, 1, Some(1)));
    for offset in (0..layout::MMIO_WINDOW as u32).step_by(4) {
        bus.write(layout::mmio_address(1) + u64::from(offset), &[0xff; 4]);
        let expected = match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => 0x7472_6976,
            reg::VIRTIO_MMIO_VERSION => 2,
            _ => 0,
        };
        assert_eq!(bus_read(&bus, 1, offset), expected, "{offset:#x}");
    }
    // Registers are four bytes wide.
    for width in [1, 2, 8] {
        let mut data = vec![0xff; width];
        bus.read(layout::mmio_address(1), &mut data);
        assert_eq!(data, vec![0; width]);
    }
}

#[test]
fn a_device_comes_to_an_empty_window_and_goes() {
    let mut bus = MmioBus::default();
    bus.add(transport(false).0);
    bus.reserve();
    bus.reserve();
    for _ in 0..3 {
        let (device, counts) = transport(false);
        assert!(bus.put(1, device).is_ok());
        assert_eq!((bus.first_empty(), bus.reserved()), (Some(2), 2));
        assert_eq!(bus_read(&bus, 1, reg::VIRTIO_MMIO_DEVICE_ID), 4);
        bus.write(layout::mmio_address(1) + u64::from(reg::VIRTIO_MMIO_STATUS), &1u32.to_le_bytes());
        assert_eq!(bus_read(&bus, 1, reg::VIRTIO_MMIO_STATUS), 1);
        let mut gone = bus.take(1).expect("the device");
        assert_eq!(bus_read(&bus, 1, reg::VIRTIO_MMIO_DEVICE_ID), 0);
        assert_eq!(bus_read(&bus, 1, reg::VIRTIO_MMIO_STATUS), 0);
        gone.reset();
        bring_up(&mut gone);
        gone.reset();
        assert_eq!((counts.activated.load(Ordering::Relaxed), counts.reset.load(Ordering::Relaxed)), (1, 1));
    }
}

#[test]
fn only_reserved_windows_are_filled_and_emptied() {
    let mut bus = MmioBus::default();
    bus.add(transport(false).0);
    bus.reserve();
    for window in [0, 2, usize::MAX] {
        assert!(bus.take(window).is_none());
        assert!(bus.put(window, transport(false).0).is_err());
    }
    assert!(bus.take(1).is_none(), "it is empty");
    assert!(bus.put(1, transport(false).0).is_ok());
    assert!(bus.put(1, transport(false).0).is_err(), "it is full");
    assert_eq!(bus.first_empty(), None);
    assert_eq!(bus_read(&bus, 0, reg::VIRTIO_MMIO_DEVICE_ID), 4);
}

#[test]
fn used_buffers_are_always_reported_while_the_kernel_uses_them() {
    let (mut transport, _) = transport(false);
    let interrupt = transport.interrupt();
    interrupt.set_used_elsewhere(true);
    write(&mut transport, reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    interrupt.signal_config().unwrap();
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    write(&mut transport, reg::VIRTIO_MMIO_INTERRUPT_ACK, 3);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    write(&mut transport, reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(read(&transport, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}
