//! Devices that come to a running VM and go again.
//!
//! ```text
//!  plug:    eventfds made and known to KVM ──▶ device in the window ──▶ the agent binds virtio-mmio.N
//!  unplug:  window emptied ──▶ eventfds unknown to KVM ──▶ device reset and dropped
//! ```
//! The device enters its window last and leaves it first, under the window's lock: an access of a vCPU meets all of the
//! device or none of it. What is done to the device outside the window holds no lock that a vCPU or the device loop
//! takes, as resetting a device waits for the device loop.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::GuestMemoryRegion;

use crate::devices::VirtioDevice;
use crate::devices::balloon::Balloon;
use crate::devices::mem::{Mem, MemControl};
use crate::event_loop::LoopHandle;
use crate::memory::VmMemory;
use crate::mmio::{MmioBus, MmioTransport};
use crate::vm::{Later, VmError, failed};
use crate::{layout, sys};

/// A VM that runs until its [`Observer`](crate::vm::Observer) is told otherwise. Its threads end with the process.
pub struct Running {
    fd: VmFd,
    memory: VmMemory,
    bus: Arc<MmioBus>,
    later: Later,
    /// Held while a device comes or goes, so that two do not take the same window. Only threads that plug take it.
    plugging: Mutex<Plugged>,
}

/// Of the devices that come once.
#[derive(Default)]
struct Plugged {
    balloon: bool,
    mem: Option<MemControl>,
}

impl Running {
    /// The VM `fd` with its `memory`, whose vCPUs see `bus`.
    pub(crate) fn new(fd: VmFd, memory: VmMemory, bus: Arc<MmioBus>, later: Later) -> Self {
        Running { fd, memory, bus, later, plugging: Mutex::default() }
    }

    /// Puts `device` into the first empty window of those that [`Vm::reserve_windows`](crate::vm::Vm::reserve_windows)
    /// made. Returns the window's number: N for the guest's `virtio-mmio.N`. The guest learns nothing by this; its
    /// agent has to bind the driver.
    ///
    /// # Errors
    /// [`VmError::NoFreeWindow`], [`VmError::Transport`], [`VmError::Kvm`]; the window stays empty, and `device` is
    /// dropped.
    pub fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<usize, VmError> {
        let _plugging = self.plugging.lock().unwrap_or_else(PoisonError::into_inner);
        let no_window = || VmError::NoFreeWindow(self.bus.reserved());
        let window = self.bus.first_empty().ok_or_else(no_window)?;
        self.put(window, device)?;
        Ok(window)
    }

    fn put(&self, window: usize, device: Box<dyn VirtioDevice>) -> Result<(), VmError> {
        let transport = MmioTransport::new(device, Arc::clone(&self.memory.guest))?;
        if let Err(err) = connect(&self.fd, window, &transport) {
            // Those that had not been registered yet are not there to be taken out.
            let _ = disconnect(&self.fd, window, &transport);
            return Err(err);
        }
        self.bus.put(window, transport).map_err(|transport| {
            let _ = disconnect(&self.fd, window, &transport);
            VmError::NoFreeWindow(self.bus.reserved())
        })
    }

    /// Asks the guest to plug so many bytes in all beyond those that it was started with; it never has to unplug any. At the first time
    /// the memory device comes, served on `device_loop`. Returns its window.
    ///
    /// # Errors
    /// [`VmError::NoRoom`] where the VM was started without room for more; [`VmError::Transport`], [`VmError::Kvm`].
    pub fn grow(&self, bytes: u64, device_loop: &LoopHandle) -> Result<usize, VmError> {
        let mut plugged = self.plugging.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(window), Some(region)) = (self.later.mem, self.memory.growth_region()) else {
            return Err(VmError::NoRoom);
        };
        if let Some(mem) = &plugged.mem {
            mem.request(bytes);
            return Ok(window);
        }
        let slot = self.memory.boot_regions().count() as u32;
        sys::register_memory(&self.fd, slot, region).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        let (device, control) = Mem::new(region.start_addr().0, region.len(), device_loop.clone());
        control.request(bytes);
        self.put(window, Box::new(device))?;
        plugged.mem = Some(control);
        Ok(window)
    }

    /// Lets the guest give back memory that it does not use: the balloon comes, served on `device_loop`, unless it is there. Returns its
    /// window.
    ///
    /// # Errors
    /// [`VmError::NoRoom`] where no window was kept for it; [`VmError::Transport`], [`VmError::Kvm`].
    pub fn report_free_pages(&self, device_loop: &LoopHandle) -> Result<usize, VmError> {
        let mut plugged = self.plugging.lock().unwrap_or_else(PoisonError::into_inner);
        let window = self.later.balloon.ok_or(VmError::NoRoom)?;
        if !plugged.balloon {
            self.put(window, Box::new(Balloon::new(device_loop.clone())))?;
            plugged.balloon = true;
        }
        Ok(window)
    }

    /// Takes the device out of `window`, resets it and drops it: when this returns, its worker has stopped and its
    /// descriptors are closed. The guest's driver should have let go of it before; for one that has not, the device is
    /// gone as if pulled out.
    ///
    /// # Errors
    /// [`VmError::NotPlugged`] when the window does not hold a device that was plugged in; [`VmError::Kvm`] when KVM
    /// does not let go of its eventfds: the device is gone then, but the window cannot be used again.
    pub fn unplug(&self, window: usize) -> Result<(), VmError> {
        let _plugging = self.plugging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut transport = self.bus.take(window).ok_or(VmError::NotPlugged(window))?;
        let disconnected = disconnect(&self.fd, window, &transport);
        transport.reset();
        disconnected
    }
}

/// Has KVM kick the queues of the device in `window` when the driver notifies it, and interrupt the guest when the
/// device does.
///
/// # Errors
/// [`VmError::Kvm`]; some of the eventfds may be registered then.
pub(crate) fn connect(fd: &VmFd, window: usize, transport: &MmioTransport) -> Result<(), VmError> {
    let notify = notify_address(window);
    for (queue, kick) in transport.kicks().iter().enumerate() {
        fd.register_ioevent(kick, &notify, queue as u32).map_err(failed("KVM_IOEVENTFD"))?;
    }
    fd.register_irqfd(transport.irq(), layout::device_irq(window)).map_err(failed("KVM_IRQFD"))
}

/// Undoes [`connect`], as far as it came.
///
/// # Errors
/// [`VmError::Kvm`] for the last of the eventfds that KVM did not know.
fn disconnect(fd: &VmFd, window: usize, transport: &MmioTransport) -> Result<(), VmError> {
    let notify = notify_address(window);
    let mut result = fd.unregister_irqfd(transport.irq(), layout::device_irq(window)).map_err(failed("KVM_IRQFD"));
    for (queue, kick) in transport.kicks().iter().enumerate() {
        let gone = fd.unregister_ioevent(kick, &notify, queue as u32).map_err(failed("KVM_IOEVENTFD"));
        result = gone.and(result);
    }
    result
}

fn notify_address(window: usize) -> IoEventAddress {
    IoEventAddress::Mmio(layout::mmio_address(window) + MmioTransport::QUEUE_NOTIFY)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use kvm_ioctls::Kvm;
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::{ActivateError, Activation, F_VERSION_1};
    use crate::memory;

    struct Probe(Arc<AtomicU32>);

    impl VirtioDevice for Probe {
        fn device_type(&self) -> u32 {
            4
        }
        fn queue_sizes(&self) -> &[u16] {
            &[16, 16]
        }
        fn features(&self) -> u64 {
            F_VERSION_1
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
            Ok(())
        }
        fn reset(&mut self) {}
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A VM with a device and `windows` places, where there is KVM. Without, these tests pass without having done
    /// anything.
    fn running(windows: usize) -> Option<Running> {
        let fd =
            Kvm::new().and_then(|kvm| kvm.create_vm()).inspect_err(|err| println!("not run: no KVM: {err}")).ok()?;
        fd.create_irq_chip().ok()?;
        let memory = memory::allocate_growing(64, 256).unwrap();
        let mut bus = MmioBus::default();
        let transport = MmioTransport::new(Box::new(Probe(Arc::default())), Arc::clone(&memory.guest)).unwrap();
        connect(&fd, 0, &transport).unwrap();
        bus.add(transport);
        (0..windows).for_each(|_| bus.reserve());
        (0..2).for_each(|_| bus.keep());
        for (slot, region) in (0..).zip(memory.boot_regions()) {
            sys::register_memory(&fd, slot, region).unwrap();
        }
        let later = Later { balloon: Some(windows + 1), mem: Some(windows + 2) };
        Some(Running::new(fd, memory, Arc::new(bus), later))
    }

    fn device_id(running: &Running, window: usize) -> u32 {
        let mut data = [0; 4];
        running.bus.read(layout::mmio_address(window) + 8, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn devices_come_and_go() {
        let Some(running) = running(2) else { return };
        let dropped = Arc::new(AtomicU32::new(0));
        let plug = || running.plug(Box::new(Probe(Arc::clone(&dropped))));
        for round in 1..=3 {
            assert_eq!((plug().unwrap(), plug().unwrap()), (1, 2));
            assert_eq!((device_id(&running, 1), device_id(&running, 2)), (4, 4));
            let full = plug().unwrap_err().to_string();
            assert_eq!(full, "the VM was started with 2 places for devices that come later, and none is free");
            running.unplug(1).unwrap();
            assert_eq!(device_id(&running, 1), 0);
            assert_eq!(plug().unwrap(), 1, "the place is free again");
            running.unplug(1).unwrap();
            running.unplug(2).unwrap();
            assert_eq!(dropped.load(Ordering::Relaxed), 4 * round);
        }
        for window in [0, 1, 3, usize::MAX] {
            assert!(matches!(running.unplug(window), Err(VmError::NotPlugged(w)) if w == window));
        }
        assert_eq!(device_id(&running, 0), 4);
    }

    #[test]
    fn memory_and_balloon_come_once() {
        let Some(running) = running(1) else { return };
        let device_loop = crate::event_loop::EventLoop::start(Arc::new(|_| {})).unwrap();
        assert_eq!((device_id(&running, 2), device_id(&running, 3)), (0, 0));
        for _ in 0..2 {
            assert_eq!(running.report_free_pages(&device_loop.handle()).unwrap(), 2);
            assert_eq!(running.grow(128 << 20, &device_loop.handle()).unwrap(), 3);
            assert_eq!((device_id(&running, 2), device_id(&running, 3)), (5, 24));
        }
        // Their windows are nobody else's, and they stay.
        assert_eq!(running.plug(Box::new(Probe(Arc::default()))).unwrap(), 1);
        assert!(matches!(running.plug(Box::new(Probe(Arc::default()))), Err(VmError::NoFreeWindow(1))));
        assert!(matches!(running.unplug(2), Err(VmError::NotPlugged(2))));
        let fixed = Running { later: Later::default(), ..running };
        assert!(matches!(fixed.grow(0, &device_loop.handle()), Err(VmError::NoRoom)));
    }

    #[test]
    fn a_device_that_kvm_refuses_leaves_its_window_empty() {
        let Some(running) = running(1) else { return };
        // Somebody has the second queue's place.
        let taken = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        running.fd.register_ioevent(&taken, &notify_address(1), 1u32).unwrap();
        let dropped = Arc::new(AtomicU32::new(0));
        let plug = || running.plug(Box::new(Probe(Arc::clone(&dropped))));
        assert!(matches!(plug(), Err(VmError::Kvm { call: "KVM_IOEVENTFD", .. })));
        assert_eq!((device_id(&running, 1), dropped.load(Ordering::Relaxed)), (0, 1));
        running.fd.unregister_ioevent(&taken, &notify_address(1), 1u32).unwrap();
        // What had been registered was taken back.
        assert_eq!(plug().unwrap(), 1);
    }

    #[test]
    fn accesses_meet_all_of_a_device_or_none() {
        let Some(running) = running(1) else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let (bus, done) = (Arc::clone(&running.bus), Arc::clone(&stop));
        let vcpu = std::thread::spawn(move || {
            let mut seen = [0u32; 2];
            while !done.load(Ordering::Relaxed) {
                let mut data = [0; 4];
                bus.write(layout::mmio_address(1) + 0x70, &1u32.to_le_bytes());
                bus.read(layout::mmio_address(1) + 8, &mut data);
                match u32::from_le_bytes(data) {
                    0 => seen[0] += 1,
                    4 => seen[1] += 1,
                    other => panic!("device {other}"),
                }
                bus.write(layout::mmio_address(1) + 0x70, &0u32.to_le_bytes());
            }
            seen
        });
        for _ in 0..200 {
            let window = running.plug(Box::new(Probe(Arc::default()))).unwrap();
            running.unplug(window).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(vcpu.join().unwrap()[0] > 0);
    }
}
