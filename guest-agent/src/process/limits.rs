//! process.rlimits.

use std::io;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Sets the limits of another process, from outside: inside a user namespace it could not raise them.
pub fn apply(pid: Pid, limits: &[PosixRlimit]) -> Result<(), (PosixRlimitType, io::Error)> {
    for limit in limits {
        let value = |v: u64| (v != u64::MAX).then_some(v);
        let new = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        prlimit(Some(pid), resource(limit.typ()), new).map_err(|e| (limit.typ(), e.into()))?;
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => Resource::Cpu,
        T::RlimitFsize => Resource::Fsize,
        T::RlimitData => Resource::Data,
        T::RlimitStack => Resource::Stack,
        T::RlimitCore => Resource::Core,
        T::RlimitRss => Resource::Rss,
        T::RlimitNproc => Resource::Nproc,
        T::RlimitNofile => Resource::Nofile,
        T::RlimitMemlock => Resource::Memlock,
        T::RlimitAs => Resource::As,
        T::RlimitLocks => Resource::Locks,
        T::RlimitSigpending => Resource::Sigpending,
        T::RlimitMsgqueue => Resource::Msgqueue,
        T::RlimitNice => Resource::Nice,
        T::RlimitRtprio => Resource::Rtprio,
        T::RlimitRttime => Resource::Rttime,
    }
}
