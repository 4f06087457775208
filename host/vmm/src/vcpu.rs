//! A thread that runs one virtual CPU and answers its exits.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::mmio::MmioBus;
use crate::ports::Ports;
use crate::vm::VmExit;

/// What a vCPU's exits reach.
#[derive(Clone)]
pub struct Surroundings {
    /// The virtio-mmio windows.
    pub bus: Arc<MmioBus>,
    /// The I/O ports.
    pub ports: Arc<Ports>,
}

/// Runs `vcpu` until the VM is over.
pub fn run(vcpu: &mut VcpuFd, around: &Surroundings) -> VmExit {
    loop {
        if let Some(exit) = run_once(vcpu, around) {
            return exit;
        }
    }
}

fn run_once(vcpu: &mut VcpuFd, around: &Surroundings) -> Option<VmExit> {
    match vcpu.run() {
        Ok(VcpuExit::MmioRead(address, data)) => around.bus.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => around.bus.write(address, data),
        Ok(VcpuExit::IoIn(port, data)) => around.ports.read(port, data),
        Ok(VcpuExit::IoOut(port, data)) => {
            if around.ports.write(port, data) {
                return Some(VmExit::Reset);
            }
        }
        // A kernel's last resort to reset a PC, which ours does by a port: here it is a defect or an attack.
        Ok(VcpuExit::Shutdown) => return Some(VmExit::Failed("the guest's CPU met a triple fault".into())),
        Ok(VcpuExit::SystemEvent(..)) => return Some(VmExit::Reset),
        Ok(VcpuExit::Intr) => {}
        // With the interrupt controllers in KVM, a halted CPU does not come here.
        Ok(VcpuExit::Hlt) => return Some(VmExit::Failed("the guest halted its CPU for good".into())),
        Ok(VcpuExit::FailEntry(reason, _)) => {
            return Some(VmExit::Failed(format!("the processor refused to enter the guest (reason {reason:#x})")));
        }
        Ok(VcpuExit::InternalError) => {
            return Some(VmExit::Failed("KVM cannot emulate what the guest does; see `sandbox doctor`".into()));
        }
        Ok(other) => return Some(VmExit::Failed(format!("KVM stopped the guest: {other:?}"))),
        Err(err) if [libc::EINTR, libc::EAGAIN].contains(&err.errno()) => {}
        Err(err) => return Some(VmExit::Failed(format!("KVM_RUN failed: {err}"))),
    }
    None
}
