//! The virtual machine: KVM's objects, the devices on its bus, its threads.

use std::fs::File;
use std::sync::{Arc, Barrier};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::boot::{self, BootError, CommandLine, Entry, MpTableError};
use crate::console_log::ConsoleLog;
use crate::devices::VirtioDevice;
use crate::hotplug;
use crate::memory::{GuestMemory, VmMemory};
use crate::mmio::{MmioBus, MmioTransport, TransportError};
use crate::ports::Ports;
use crate::vcpu::Surroundings;
use crate::{ThreadKind, ThreadStart, cpuid, layout, registers, sys, vcpu};

pub use crate::hotplug::Running;

/// Why a VM cannot be made or started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A KVM call failed.
    #[error("KVM: {call} failed: {reason}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// What the system said.
        reason: kvm_ioctls::Error,
    },
    /// More devices than interrupt lines.
    #[error("the VM has room for {} devices", layout::MAX_DEVICES)]
    TooManyDevices,
    /// A device came when all windows that were reserved have one.
    #[error("the VM was started with {0} places for devices that come later, and none is free")]
    NoFreeWindow(usize),
    /// A device is to go that never came, or came with the VM.
    #[error("place {0} of the VM holds no device that was added after the start")]
    NotPlugged(usize),
    /// More memory is asked for than there can be.
    #[error("the VM was started without room for more memory")]
    NoRoom,
    /// A device cannot be put on the bus.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Kernel or initramfs cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The number of vCPUs is not possible.
    #[error(transparent)]
    Cpus(#[from] MpTableError),
    /// A thread cannot be started.
    #[error("cannot start a vCPU's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// The guest reset itself: the agent's way to power off, and the kernel's after a panic.
    Reset,
    /// KVM cannot go on.
    Failed(String),
}

/// A VM that has not been started.
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    memory: VmMemory,
    bus: MmioBus,
    later: Later,
    ports: Ports,
    command_line: CommandLine,
}

/// Windows of devices that a VM has at most one of, and not before it has a use for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Later {
    /// The balloon's.
    pub balloon: Option<usize>,
    /// That of the memory device.
    pub mem: Option<usize>,
}

/// Turns a failed KVM call into an error that names it.
pub(crate) fn failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |reason| VmError::Kvm { call, reason }
}

impl Vm {
    /// Makes a VM with `memory` and interrupt controllers, without CPUs yet. The guest's serial port writes to `log`.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn new(kvm: Kvm, memory: VmMemory, log: ConsoleLog) -> Result<Self, VmError> {
        let fd = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        for (slot, region) in (0..).zip(memory.boot_regions()) {
            sys::register_memory(&fd, slot, region).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        fd.set_tss_address(layout::KVM_TSS).map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2"))?;
        Ok(Vm {
            kvm,
            fd,
            memory,
            bus: MmioBus::default(),
            later: Later::default(),
            ports: Ports::new(log),
            command_line: CommandLine::default(),
        })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory.guest
    }

    /// Puts a device on the bus: its window, its interrupt line, an ioeventfd for each queue.
    ///
    /// # Errors
    /// [`VmError::TooManyDevices`], [`VmError::Transport`], [`VmError::Kvm`].
    pub fn add_device(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), VmError> {
        let window = self.next_window()?;
        let transport = MmioTransport::new(device, Arc::clone(&self.memory.guest))?;
        hotplug::connect(&self.fd, window, &transport)?;
        self.command_line.add_device(window);
        self.bus.add(transport);
        Ok(())
    }

    /// Adds `count` windows without a device, for [`Running::plug`]. The guest's driver looks at each once, finds no device
    /// and leaves it until it is bound to it again (`/sys/bus/platform/drivers/virtio-mmio/bind`).
    ///
    /// # Errors
    /// [`VmError::TooManyDevices`]; as many windows as fit have then been added.
    pub fn reserve_windows(&mut self, count: usize) -> Result<(), VmError> {
        for _ in 0..count {
            let window = self.next_window()?;
            self.command_line.add_device(window);
            self.bus.reserve();
        }
        Ok(())
    }

    /// Adds windows without a device for [`Running::grow`], where memory can be plugged in, and [`Running::report_free_pages`].
    ///
    /// # Errors
    /// [`VmError::TooManyDevices`].
    pub fn keep_windows(&mut self) -> Result<(), VmError> {
        self.later.balloon = Some(self.keep_window()?);
        if self.memory.growth.is_some() {
            self.later.mem = Some(self.keep_window()?);
        }
        Ok(())
    }

    fn keep_window(&mut self) -> Result<usize, VmError> {
        let window = self.next_window()?;
        self.command_line.add_device(window);
        self.bus.keep();
        Ok(window)
    }

    fn next_window(&self) -> Result<usize, VmError> {
        let window = self.bus.windows();
        if window < layout::MAX_DEVICES { Ok(window) } else { Err(VmError::TooManyDevices) }
    }

    /// Loads kernel and initramfs, appends `arguments` to the command line, and starts a thread per vCPU. Each runs `on_start`,
    /// and none enters the guest before [`Ready::go`].
    ///
    /// # Errors
    /// [`VmError`]; nothing runs then.
    pub fn start(
        mut self,
        vcpus: u8,
        kernel: &mut File,
        initramfs: &mut File,
        arguments: &str,
        on_start: &ThreadStart,
        observer: Arc<dyn Observer>,
    ) -> Result<Ready, VmError> {
        let vcpus = vcpus.max(1);
        self.command_line.add_arguments(arguments).map_err(BootError::from)?;
        boot::write_mp_table(&self.memory.guest, vcpus)?;
        let entry = boot::load(&self.memory, kernel, initramfs, &self.command_line)?;
        let cpus = self.create_vcpus(vcpus, entry)?;
        let bus = Arc::new(self.bus);
        let around = Surroundings { bus: Arc::clone(&bus), ports: Arc::new(self.ports) };
        let all_there = Arc::new(Barrier::new(cpus.len() + 1));
        for (id, cpu) in cpus.into_iter().enumerate() {
            let thread = VcpuThread {
                cpu,
                around: around.clone(),
                all_there: Arc::clone(&all_there),
                on_start: Arc::clone(on_start),
                observer: Arc::clone(&observer),
            };
            std::thread::Builder::new().name(format!("vcpu{id}")).spawn(move || thread.run(id == 0))?;
        }
        Ok(Ready { all_there, running: Running::new(self.fd, self.memory, bus, self.later) })
    }

    fn create_vcpus(&self, count: u8, entry: Entry) -> Result<Vec<VcpuFd>, VmError> {
        let supported =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let tsc_deadline = self.kvm.check_extension(Cap::TscDeadlineTimer);
        let mut cpus = Vec::with_capacity(usize::from(count));
        for id in 0..count {
            let cpu = self.fd.create_vcpu(u64::from(id)).map_err(failed("KVM_CREATE_VCPU"))?;
            let table = cpuid::for_vcpu(&supported, id, count, tsc_deadline);
            cpu.set_cpuid2(&table).map_err(failed("KVM_SET_CPUID2"))?;
            registers::set_up_vcpu(&cpu).map_err(failed("setting up a vCPU"))?;
            cpus.push(cpu);
        }
        if let Some(first) = cpus.first() {
            registers::set_up_boot_vcpu(first, entry).map_err(failed("setting the entry point"))?;
        }
        Ok(cpus)
    }
}

struct VcpuThread {
    cpu: VcpuFd,
    around: Surroundings,
    all_there: Arc<Barrier>,
    on_start: ThreadStart,
    observer: Arc<dyn Observer>,
}

impl VcpuThread {
    fn run(mut self, first: bool) {
        (self.on_start)(ThreadKind::Vcpu);
        self.all_there.wait();
        if first {
            self.observer.entering();
        }
        let exit = vcpu::run(&mut self.cpu, &self.around);
        self.observer.exited(exit);
    }
}

/// Is told of a VM's two great moments, on the vCPU's thread.
pub trait Observer: Send + Sync {
    /// The first vCPU is about to enter the guest's kernel.
    fn entering(&self);

    /// A vCPU has ended, and with it the VM.
    fn exited(&self, exit: VmExit);
}

/// A VM whose threads wait for the word.
pub struct Ready {
    all_there: Arc<Barrier>,
    running: Running,
}

impl Ready {
    /// Lets the vCPUs enter the guest, once all are there.
    pub fn go(self) -> Running {
        self.all_there.wait();
        self.running
    }
}
