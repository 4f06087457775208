//! Who a client is to the host's processes (SO_PEERCRED, SCM_CREDENTIALS of unix(7)): they decide by it what it may do. With runc it is a
//! process of the container; here it is the proxy, which is root, and must not lend that to a user of the container's who is not.

use std::io;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::process::{DumpableBehavior, Gid, Uid, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use crate::sys;

/// First id and length of a range.
type Range = (u32, u32);

/// Users and groups on the host that a container's processes can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    users: Vec<Range>,
    groups: Vec<Range>,
}

impl Identities {
    /// All of them, or with a user namespace those that are mapped.
    pub fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
            // The last id is none: to the kernel it means that nothing is to change.
            return Self { users: vec![(0, u32::MAX)], groups: vec![(0, u32::MAX)] };
        }
        let ranges = |list: Option<&[LinuxIdMapping]>| {
            list.unwrap_or_default().iter().map(|map| (map.host_id(), map.size())).collect()
        };
        Self {
            users: ranges(linux.and_then(|linux| linux.uid_mappings().as_deref())),
            groups: ranges(linux.and_then(|linux| linux.gid_mappings().as_deref())),
        }
    }

    /// Whether a process can be this user with this group.
    pub fn allow(&self, uid: u32, gid: u32) -> bool {
        let within = |ranges: &[Range], id: u32| {
            id != u32::MAX && ranges.iter().any(|(first, length)| id.checked_sub(*first).is_some_and(|at| at < *length))
        };
        within(&self.users, uid) && within(&self.groups, gid)
    }
}

/// Makes this thread, and no other, somebody else to those that it connects to. What files it may reach stays as it is: the guest's
/// kernel has checked that by the node's mode, with groups that are not known here.
pub fn assume(uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    // The saved id stays: no process of that user may trace this thread, and files can be reached by it.
    set_thread_res_uid(uid, uid, geteuid())?;
    sys::set_file_user(0);
    // The kernel has taken it away with the id. Who looks into /proc/PID of this process may be root without any capability.
    Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identities(linux: serde_json::Value) -> Identities {
        Identities::of(&serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": linux})).unwrap())
    }

    #[test]
    fn without_a_user_namespace_everybody() {
        let all = identities(json!({"namespaces": [{"type": "pid"}]}));
        assert!(all.allow(0, 0) && all.allow(u32::MAX - 1, 5));
        assert!(!all.allow(u32::MAX, 0) && !all.allow(0, u32::MAX));
    }

    #[test]
    fn with_one_those_that_are_mapped() {
        let map =
            json!([{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 1000, "hostID": 7, "size": 1}]);
        let groups = json!([{"containerID": 0, "hostID": 200_000, "size": 10}]);
        let some = json!({"namespaces": [{"type": "user"}], "uidMappings": map, "gidMappings": groups});
        let some = identities(some);
        assert!(some.allow(100_000, 200_000) && some.allow(100_999, 200_009) && some.allow(7, 200_000));
        for (uid, gid) in [(0, 200_000), (101_000, 200_000), (8, 200_000), (7, 0), (7, 200_010), (u32::MAX, u32::MAX)] {
            assert!(!some.allow(uid, gid), "{uid} {gid}");
        }
        assert!(!identities(json!({"namespaces": [{"type": "user"}]})).allow(0, 0));
    }
}
