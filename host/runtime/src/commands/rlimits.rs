//! Limits that config.json does not set: a container has those of whoever creates it, as with runc. The guest's own would be another
//! machine's: 1,024 open files where the daemon's unit file gives half a million.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process};
use rustix::process::{Resource, getrlimit};

/// The most that the guest's kernel allows for open files (fs.nr_open).
const OPEN_FILES: u64 = 1 << 20;

const KINDS: [(PosixRlimitType, Resource); 15] = [
    (PosixRlimitType::RlimitCpu, Resource::Cpu),
    (PosixRlimitType::RlimitFsize, Resource::Fsize),
    (PosixRlimitType::RlimitData, Resource::Data),
    (PosixRlimitType::RlimitStack, Resource::Stack),
    (PosixRlimitType::RlimitCore, Resource::Core),
    (PosixRlimitType::RlimitRss, Resource::Rss),
    (PosixRlimitType::RlimitNproc, Resource::Nproc),
    (PosixRlimitType::RlimitNofile, Resource::Nofile),
    (PosixRlimitType::RlimitMemlock, Resource::Memlock),
    (PosixRlimitType::RlimitAs, Resource::As),
    (PosixRlimitType::RlimitLocks, Resource::Locks),
    (PosixRlimitType::RlimitSigpending, Resource::Sigpending),
    (PosixRlimitType::RlimitMsgqueue, Resource::Msgqueue),
    (PosixRlimitType::RlimitNice, Resource::Nice),
    (PosixRlimitType::RlimitRtprio, Resource::Rtprio),
];

/// Adds the caller's limits to those that are given.
pub(super) fn inherit(process: &mut Process) {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    let given: Vec<PosixRlimitType> = limits.iter().map(PosixRlimit::typ).collect();
    for (kind, resource) in KINDS.into_iter().filter(|(kind, _)| !given.contains(kind)) {
        let own = getrlimit(resource);
        let most = if kind == PosixRlimitType::RlimitNofile { OPEN_FILES } else { u64::MAX };
        let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX).min(most);
        let built = PosixRlimitBuilder::default().typ(kind).soft(value(own.current)).hard(value(own.maximum)).build();
        limits.extend(built.ok());
    }
    process.set_rlimits(Some(limits));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn given_limits_stay_and_the_others_are_the_callers() {
        let mut process: Process = serde_json::from_value(json!({
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]
        }))
        .unwrap();
        inherit(&mut process);
        let limits = process.rlimits().clone().unwrap();
        assert_eq!(limits.len(), KINDS.len());
        let of =
            |kind| limits.iter().find(|limit| limit.typ() == kind).map(|limit| (limit.soft(), limit.hard())).unwrap();
        assert_eq!(of(PosixRlimitType::RlimitCore), (1, 2));
        let stack = getrlimit(Resource::Stack);
        assert_eq!(of(PosixRlimitType::RlimitStack).0, stack.current.unwrap_or(u64::MAX));
        assert!(of(PosixRlimitType::RlimitNofile).1 <= OPEN_FILES);
    }
}
