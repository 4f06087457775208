//! Capabilities, as the kernel's numbers.

use std::io;

use oci_spec::runtime::{Capabilities, Capability};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// One bit for each capability, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// What execve(2) may ever give.
    pub bounding: u64,
    /// In force.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept over execve(2) of marked files.
    pub inheritable: u64,
    /// Kept over execve(2) of any file.
    pub ambient: u64,
}

/// The set as bits.
pub fn bits(set: &Capabilities) -> u64 {
    set.iter().map(|c| 1u64 << number(*c)).fold(0, |all, bit| all | bit)
}

/// The kernel's number (linux/capability.h).
fn number(capability: Capability) -> u32 {
    use Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

/// Takes out of the bounding set what is not in `keep`; needs CAP_SETPCAP, so comes before the user changes.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // An error means that the kernel knows no such capability, nor a higher one.
        let Ok(present) = rustix::thread::capability_is_in_bounding_set(capability) else { break };
        if present && keep & 1 << number == 0 {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

/// Sets the other four; comes after the user has changed.
pub fn apply(sets: &Sets) -> io::Result<()> {
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::from_bits_retain(sets.effective),
            permitted: CapabilitySet::from_bits_retain(sets.permitted),
            inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
        },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    // A capability is ambient only while it is permitted and inheritable too (capabilities(7)). Like runc, whose own `spec` asks
    // for such sets, we leave the others out instead of failing.
    let ambient = sets.ambient & sets.permitted & sets.inheritable;
    for number in (0..64).filter(|n| ambient & 1 << n != 0) {
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
    }
    Ok(())
}
