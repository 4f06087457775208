//! process.rlimits.

use std::fs;
use std::io;
use std::sync::OnceLock;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The agent holds some descriptors for each process of a container; many can run at once.
const OWN_DESCRIPTORS: u64 = 65_536;

/// How many files a process can have open at most; no limit of them is above it.
const NR_OPEN: &str = "/proc/sys/fs/nr_open";
/// What the kernel begins with, and the most that it takes.
const NR_OPEN_RANGE: (u64, u64) = (1 << 20, 0x7fff_ffc0);

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
        let value = |v: u64| (v != u64::MAX).then_some(v);
        let new = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        if limit.typ() == PosixRlimitType::RlimitNofile {
            make_room(limit.hard()).map_err(|e| (limit.typ(), e))?;
        }
        prlimit(Some(pid), resource(limit.typ()), new).map_err(|e| (limit.typ(), e.into()))?;
    }
    Ok(())
}

/// Hosts with systemd have raised fs.nr_open, so callers give limits that the kernel by itself would refuse.
fn make_room(open_files: u64) -> io::Result<()> {
    let (least, most) = NR_OPEN_RANGE;
    if open_files <= least || open_files > most {
        return Ok(());
    }
    let now = fs::read_to_string(NR_OPEN)?.trim_end().parse().unwrap_or(least);
    if open_files > now { fs::write(NR_OPEN, open_files.to_string()) } else { Ok(()) }
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
