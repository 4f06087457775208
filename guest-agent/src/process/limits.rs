//! process.rlimits.

use std::fs;
use std::io;
use std::sync::OnceLock;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The agent holds some descriptors for each process of a container; many can run at once.
const OWN_DESCRIPTORS: u64 = 65_536;

/// fs.nr_open of a kernel that was told nothing.
const KERNELS_OPEN_FILES: u64 = 1 << 20;

static INHERITED_DESCRIPTORS: OnceLock<(Option<u64>, Option<u64>)> = OnceLock::new();

/// Raises the agent's own limit of descriptors. Containers get what the kernel gave the agent.
pub fn raise_own() -> io::Result<()> {
    let given = getrlimit(Resource::Nofile);
    let _ = INHERITED_DESCRIPTORS.set((given.current, given.maximum));
    let enough = Some(OWN_DESCRIPTORS);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: enough, maximum: enough })?)
}

/// Sets the limits of another process, from outside: inside a user namespace it could not raise them.
pub fn apply(pid: Pid, limits: &[PosixRlimit]) -> Result<(), (PosixRlimitType, io::Error)> {
    if let Some((current, maximum)) = INHERITED_DESCRIPTORS.get().copied() {
        let kind = PosixRlimitType::RlimitNofile;
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).map_err(|e| (kind, e.into()))?;
    }
    for limit in limits {
        if limit.typ() == PosixRlimitType::RlimitNofile {
            allow_files(limit.hard());
        }
        let value = |v: u64| (v != u64::MAX).then_some(v);
        let new = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        prlimit(Some(pid), resource(limit.typ()), new).map_err(|e| (limit.typ(), e.into()))?;
    }
    Ok(())
}

/// The kernel lets nobody have more open files than fs.nr_open says, root neither. Many hosts have raised theirs, and with runc a container may
/// ask for what they allow. What cannot be is told by who sets the limit next.
fn allow_files(most: u64) {
    const NR_OPEN: &str = "/proc/sys/fs/nr_open";
    if most > KERNELS_OPEN_FILES && most != u64::MAX {
        let now = fs::read_to_string(NR_OPEN).ok().and_then(|text| text.trim_end().parse().ok());
        if now.is_some_and(|now: u64| now < most)
            && let Err(error) = fs::write(NR_OPEN, most.to_string())
        {
            log::warn!("cannot set fs.nr_open to {most}: {error}");
        }
    }
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
