//! The virtual machine: KVM's objects, the devices on its bus, its threads.

use std::fs::File;
use std::sync::{Arc, Barrier};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemory as _;

use crate::boot::{self, BootError, CommandLine, Entry, MpTableError};
use crate::console_log::ConsoleLog;
use crate::devices::VirtioDevice;
use crate::memory::GuestMemory;
use crate::mmio::{MmioBus, MmioTransport, TransportError};
use crate::ports::Ports;
use crate::vcpu::Surroundings;
use crate::{ThreadKind, ThreadStart, cpuid, layout, registers, sys, vcpu};

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
    memory: Arc<GuestMemory>,
    bus: MmioBus,
    devices: usize,
    ports: Ports,
    command_line: CommandLine,
}

/// Turns a failed KVM call into an error that names it.
fn failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |reason| VmError::Kvm { call, reason }
}

impl Vm {
    /// Makes a VM with `memory` and interrupt controllers, without CPUs yet. The guest's serial port writes to `log`.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn new(kvm: Kvm, memory: Arc<GuestMemory>, log: ConsoleLog) -> Result<Self, VmError> {
        let fd = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        for (slot, region) in memory.iter().enumerate() {
            sys::register_memory(&fd, slot as u32, region).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
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
            devices: 0,
            ports: Ports::new(log),
            command_line: CommandLine::default(),
        })
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Puts a device on the bus: its window, its interrupt line, an ioeventfd for each queue.
    ///
    /// # Errors
    /// [`VmError::TooManyDevices`], [`VmError::Transport`], [`VmError::Kvm`].
    pub fn add_device(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), VmError> {
        let index = self.devices;
        if index >= layout::MAX_DEVICES {
            return Err(VmError::TooManyDevices);
        }
        let transport = MmioTransport::new(device, Arc::clone(&self.memory))?;
        let notify = IoEventAddress::Mmio(layout::mmio_address(index) + MmioTransport::QUEUE_NOTIFY);
        for (queue, kick) in transport.kicks().iter().enumerate() {
            self.fd.register_ioevent(kick, &notify, queue as u32).map_err(failed("KVM_IOEVENTFD"))?;
        }
        self.fd.register_irqfd(transport.irq(), layout::device_irq(index)).map_err(failed("KVM_IRQFD"))?;
        self.command_line.add_device(index);
        self.bus.add(transport);
        self.devices += 1;
        Ok(())
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
        boot::write_mp_table(&self.memory, vcpus)?;
        let entry = boot::load(&self.memory, kernel, initramfs, &self.command_line)?;
        let cpus = self.create_vcpus(vcpus, entry)?;
        let around = Surroundings { bus: Arc::new(self.bus), ports: Arc::new(self.ports) };
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
        Ok(Ready { all_there, running: Running { _fd: self.fd, _memory: self.memory } })
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

/// A VM that runs until its [`Observer`] is told otherwise. Its threads end with the process.
pub struct Running {
    _fd: VmFd,
    _memory: Arc<GuestMemory>,
}
