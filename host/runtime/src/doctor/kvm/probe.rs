//! The scratch VM: made, run and timed on a thread of its own, which is given up if it hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{KvmError, SLOWEST_NANOSECONDS, code, sys};

/// Instructions of the loop that warms up, and whose time is that of entering and leaving the guest.
const WARM_UP: u64 = 200;
/// The loop is run at most so often, and the best time counts: a busy host takes the processor away in the middle of most runs.
const RUNS: usize = 30;
/// After the vCPU was told to stop, it has so long to do it.
const GRACE: Duration = Duration::from_millis(500);

/// What the scratch VM showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Nanoseconds of one instruction of kernel code, entering and leaving the guest left out.
    pub nanoseconds: f64,
    /// An instruction that the processor has and that was not executed, and how KVM left the guest.
    pub refused: Option<(&'static str, String)>,
}

/// Runs the probe, with so many instructions in its timed loop. Returns after `patience` and [`GRACE`] at the latest.
pub fn run(kvm: Kvm, instructions: u64, patience: Duration) -> Result<Speed, KvmError> {
    sys::prepare_kicks().map_err(|source| KvmError::Setup { step: "setting a signal handler", source })?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = sync_channel(1);
    let stopped = Arc::clone(&stop);
    let thread = std::thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            let result = Scratch::new(&kvm).and_then(|mut vm| vm.probe(instructions, &stopped));
            // Nobody listens when patience was lost.
            let _ = sender.send(result);
        })
        .map_err(|source| KvmError::Setup { step: "starting a thread", source })?;
    match receiver.recv_timeout(patience) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(RecvTimeoutError::Disconnected) => Err(KvmError::Hangs),
        Err(RecvTimeoutError::Timeout) => {
            stop.store(true, Ordering::Release);
            interrupt(&receiver, || sys::kick(&thread));
            Err(KvmError::Hangs)
        }
    }
}

/// Kicks until the thread has ended or [`GRACE`] is over: a kick right before KVM_RUN is lost.
fn interrupt(receiver: &Receiver<Result<Speed, KvmError>>, kick: impl Fn()) {
    let started = Instant::now();
    while started.elapsed() < GRACE {
        kick();
        match receiver.recv_timeout(Duration::from_millis(5)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

/// The VM. Fields are dropped in this order: the memory last.
struct Scratch {
    vcpu: VcpuFd,
    _vm: VmFd,
    cpuid: CpuId,
    _memory: GuestMemoryMmap,
}

impl Scratch {
    fn new(kvm: &Kvm) -> Result<Self, KvmError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), code::MEMORY)])
            .map_err(|err| setup("mapping memory", io::Error::other(err)))?;
        code::write(&memory).map_err(|err| setup("writing memory", io::Error::other(err)))?;
        let vm = kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))?;
        sys::set_memory(&vm, &memory).map_err(|source| setup("KVM_SET_USER_MEMORY_REGION", source))?;
        let vcpu = vm.create_vcpu(0).map_err(kvm_error("KVM_CREATE_VCPU"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm_error("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(kvm_error("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(kvm_error("KVM_GET_SREGS"))?;
        code::set_long_mode(&mut sregs, has(&cpuid, 1, code::XSAVE_BIT));
        vcpu.set_sregs(&sregs).map_err(kvm_error("KVM_SET_SREGS"))?;
        Ok(Scratch { vcpu, _vm: vm, cpuid, _memory: memory })
    }

    fn probe(&mut self, instructions: u64, stop: &AtomicBool) -> Result<Speed, KvmError> {
        let mut best = Duration::MAX;
        let mut shortest = Duration::MAX;
        let mut nanoseconds = f64::INFINITY;
        for _ in 0..RUNS {
            shortest = shortest.min(self.time_loop(WARM_UP, stop)?);
            let long = self.time_loop(instructions, stop)?;
            best = best.min(long);
            nanoseconds =
                best.saturating_sub(shortest).as_nanos() as f64 / instructions.saturating_sub(WARM_UP).max(1) as f64;
            if nanoseconds <= SLOWEST_NANOSECONDS {
                break;
            }
        }
        let mut refused = None;
        for (index, instruction) in code::INSTRUCTIONS.iter().enumerate() {
            let present = instruction.leaf == 0 || has(&self.cpuid, instruction.leaf, instruction.bit);
            if present && let Err(exit) = self.execute(&code::instruction_registers(index), stop)? {
                refused = Some((instruction.name, exit));
                break; // the vCPU may be in any state now
            }
        }
        Ok(Speed { nanoseconds, refused })
    }

    fn time_loop(&mut self, instructions: u64, stop: &AtomicBool) -> Result<Duration, KvmError> {
        let registers = code::loop_registers(instructions / 2);
        let started = Instant::now();
        self.execute(&registers, stop)?.map_err(|exit| KvmError::Instruction { instruction: "a loop", exit })?;
        Ok(started.elapsed())
    }

    /// Runs a program to its HLT. The inner error says how else KVM left the guest.
    fn execute(
        &mut self,
        registers: &kvm_bindings::kvm_regs,
        stop: &AtomicBool,
    ) -> Result<Result<(), String>, KvmError> {
        self.vcpu.set_regs(registers).map_err(kvm_error("KVM_SET_REGS"))?;
        loop {
            if stop.load(Ordering::Acquire) {
                return Err(KvmError::Hangs);
            }
            return match self.vcpu.run() {
                Ok(VcpuExit::Hlt) => Ok(Ok(())),
                Ok(VcpuExit::Intr) => continue,
                Ok(other) => Ok(Err(format!("{other:?}"))),
                Err(err) if matches!(err.errno(), libc::EINTR | libc::EAGAIN) => continue,
                Err(err) => Ok(Err(format!("KVM_RUN: {}", io::Error::from(err)))),
            };
        }
    }
}

/// Whether a bit of CPUID is set: in ECX of leaf 1, in EBX of leaf 7.
fn has(cpuid: &CpuId, leaf: u32, bit: u32) -> bool {
    let Some(entry) = cpuid.as_slice().iter().find(|e| e.function == leaf && e.index == 0) else {
        return false;
    };
    let register = if leaf == 1 { entry.ecx } else { entry.ebx };
    register & (1 << bit) != 0
}

fn setup(step: &'static str, source: io::Error) -> KvmError {
    KvmError::Setup { step, source }
}

fn kvm_error(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |err| setup(step, err.into())
}
