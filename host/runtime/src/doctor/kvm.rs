//! Whether this machine's KVM can run a guest at a guest's speed.
//!
//! Some machines have a /dev/kvm that no virtualization hardware stands behind: it runs a guest's user code directly and
//! interprets its kernel code, slowly and not all of it. Linux does not boot there, and no flag tells. So [`ensure_usable`] runs
//! kernel code in a scratch VM, once a boot, and times it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;

use crate::error::Plain;

mod cache;
mod code;
mod probe;
mod sys;
#[cfg(test)]
mod tests;

pub use probe::Speed;

/// The device.
pub const DEVICE: &str = "/dev/kvm";

/// The only version of the interface there is (linux/kvm.h).
const API_VERSION: i32 = 12;

/// Slower kernel code than this is not run by hardware. Measured: 1.5 to 1.9 ns an instruction in the lab, whose processor is
/// itself emulated (real ones take a fraction of one), 260 to 340 ns where KVM interprets, and more when the machine is busy.
const SLOWEST_NANOSECONDS: f64 = 100.0;

/// Length of the timed loop: long beside entering the guest, and over in milliseconds where KVM interprets.
const INSTRUCTIONS: u64 = 5_000;

/// How long the scratch VM may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a guest needs of KVM, and what for.
const CAPABILITIES: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
];

/// Why KVM is of no use here. Each text says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no /dev/kvm.
    #[error(
        "there is no {DEVICE}: load the kernel module kvm_intel or kvm_amd; in a virtual machine, enable nested virtualization for it"
    )]
    Missing,
    /// /dev/kvm may not be opened.
    #[error("no permission to open {DEVICE}: run as root, or add the user to the group that owns it (usually kvm)")]
    Permission,
    /// /dev/kvm cannot be opened.
    #[error("cannot open {DEVICE}: {}", Plain(.0))]
    Open(io::Error),
    /// The device is not KVM, or of another age.
    #[error("{DEVICE} has API version {0}, not {API_VERSION}: it is not a KVM that works with this program")]
    ApiVersion(i32),
    /// A capability is missing.
    #[error("this kernel's KVM lacks {0}: use a newer kernel")]
    Capability(&'static str),
    /// The scratch VM could not be set up.
    #[error("cannot make a scratch VM: {step}: {}", Plain(source))]
    Setup {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Kernel code runs too slowly.
    #[error(
        "this machine's KVM interprets kernel code ({nanoseconds:.0} ns an instruction), so that a guest would take minutes to boot: \
         use a machine with VT-x or AMD-V, or with nested virtualization enabled"
    )]
    Slow {
        /// Of an instruction.
        nanoseconds: f64,
    },
    /// An instruction that every guest kernel uses is not executed.
    #[error(
        "this machine's KVM does not execute {instruction} in kernel code ({exit}), so that no guest would boot: use a machine \
         with VT-x or AMD-V, or with nested virtualization enabled"
    )]
    Instruction {
        /// Its name.
        instruction: &'static str,
        /// How KVM gave up.
        exit: String,
    },
    /// The scratch VM did not come to its end.
    #[error(
        "this machine's KVM did not finish a few thousand instructions of kernel code within {} s: use a machine with VT-x or \
         AMD-V, or with nested virtualization enabled",
        PATIENCE.as_secs()
    )]
    Hangs,
}

/// Opens /dev/kvm, close-on-exec.
///
/// # Errors
/// [`KvmError::Missing`], [`KvmError::Permission`] or [`KvmError::Open`].
pub fn open() -> Result<File, KvmError> {
    File::options().read(true).write(true).open(DEVICE).map_err(|err| match Errno::from_io_error(&err) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => KvmError::Missing,
        Some(Errno::ACCESS | Errno::PERM) => KvmError::Permission,
        _ => KvmError::Open(err),
    })
}

/// Makes sure, in microseconds when it was made sure before in this boot, that `kvm` (/dev/kvm, opened) runs guests.
///
/// `cache_dir` is where a good verdict is kept (a file named `kvm-usable`); a bad one is never believed the next time. A
/// verdict that cannot be read or written costs time and is no error.
///
/// # Errors
/// See [`KvmError`].
pub fn ensure_usable(kvm: &File, cache_dir: &Path) -> Result<(), KvmError> {
    // Whatever was found before, this descriptor may be another thing.
    let kvm = interface(kvm)?;
    if cache::is_good(cache_dir) {
        return Ok(());
    }
    check_capabilities(&kvm)?;
    measure(kvm)?;
    cache::keep(cache_dir);
    Ok(())
}

/// A handle on the KVM interface, after a look at its version.
///
/// # Errors
/// [`KvmError::ApiVersion`], or [`KvmError::Setup`] without a descriptor left.
pub fn interface(kvm: &File) -> Result<Kvm, KvmError> {
    let kvm = sys::kvm(kvm).map_err(|source| KvmError::Setup { step: "copying a descriptor", source })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        other => Err(KvmError::ApiVersion(other)),
    }
}

/// Looks for the capabilities that a guest needs.
///
/// # Errors
/// [`KvmError::Capability`] names the first that is missing.
pub fn check_capabilities(kvm: &Kvm) -> Result<(), KvmError> {
    match CAPABILITIES.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Capability(name)),
        None => Ok(()),
    }
}

/// Runs kernel code in a scratch VM; comes back within [`PATIENCE`], and a little, whatever KVM does.
///
/// # Errors
/// When the code runs too slowly, not at all, or not to its end.
pub fn measure(kvm: Kvm) -> Result<Speed, KvmError> {
    let speed = probe::run(kvm, INSTRUCTIONS, PATIENCE)?;
    if speed.nanoseconds > SLOWEST_NANOSECONDS {
        return Err(KvmError::Slow { nanoseconds: speed.nanoseconds });
    }
    match speed.refused {
        Some((instruction, exit)) => Err(KvmError::Instruction { instruction, exit }),
        None => Ok(speed),
    }
}

/// Whether the processor says that it has VT-x or AMD-V. It may have it and not be allowed to use it, and the other way round.
pub fn processor_has_virtualization() -> bool {
    let leaf_1 = std::arch::x86_64::__cpuid(1);
    let highest_extended = std::arch::x86_64::__cpuid(0x8000_0000).eax;
    let vmx = leaf_1.ecx & (1 << 5) != 0;
    let svm = highest_extended >= 0x8000_0001 && std::arch::x86_64::__cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    vmx || svm
}
