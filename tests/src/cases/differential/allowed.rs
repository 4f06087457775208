//! The differences that are allowed, each with its reason. A line that allows nothing any more fails its case, so that the
//! list says what is so.

use std::collections::BTreeSet;

use super::compare::matches;

/// Patterns of bundle names, pattern of keys, reason.
struct Allowed {
    bundles: &'static [&'static str],
    key: &'static str,
    reason: &'static str,
}

const EVERYWHERE: &[&str] = &["*"];

const fn everywhere(key: &'static str, reason: &'static str) -> Allowed {
    Allowed { bundles: EVERYWHERE, key, reason }
}

const fn only(bundles: &'static [&'static str], key: &'static str, reason: &'static str) -> Allowed {
    Allowed { bundles, key, reason }
}

const LIST: &[Allowed] = &[
    // A container in a machine of its own.
    everywhere("cgroup:cpuset.*.effective", "the guest has the processors that it was given"),
    everywhere("status.Cpus_allowed_list", "the guest has the processors that it was given"),
    everywhere("limit.Max processes", "the kernel's default, a share of the guest's memory"),
    everywhere("limit.Max pending signals", "the kernel's default, a share of the guest's memory"),
    everywhere("read:/proc/acpi", "the guest has no ACPI"),
    everywhere("mount:/proc/acpi:*", "the guest has no ACPI"),
    everywhere("read:/proc/bus", "the guest has no PCI"),
    everywhere("read:/sys/firmware", "the guest has no ACPI"),
    everywhere("call.quotactl", "the guest's kernel has no quota: files are the host's"),
    everywhere(
        "network.interfaces",
        "the lab's host kernel has a bonding driver, which shows in each network namespace",
    ),
    everywhere("status.SigIgn", "runc passes on what its caller ignores; the guest's first process has no caller"),
    everywhere("fd.0*", "runc makes a pipe of the caller's /dev/null"),
    // The share is virtio-fs, not the host's file system.
    everywhere("mount:/:type", "the root is shared by virtio-fs"),
    everywhere("mount:/:source", "the root is shared by virtio-fs"),
    everywhere("mount:/:super options", "the root is shared by virtio-fs"),
    everywhere("mount:/:propagation", "no mount of the host can propagate into a guest"),
];

/// Which lines were needed.
#[derive(Default)]
pub(super) struct Used(BTreeSet<usize>);

impl Used {
    /// Whether the list allows a difference.
    pub(super) fn allows(&mut self, bundle: &str, key: &str) -> bool {
        let of = |allowed: &Allowed| {
            matches(allowed.key, key) && allowed.bundles.iter().any(|pattern| matches(pattern, bundle))
        };
        let found = LIST.iter().position(of);
        self.0.extend(found);
        found.is_some()
    }

    /// Lines for one of these bundles that allowed nothing.
    pub(super) fn unused<'a>(&self, bundles: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
        let concerned = |allowed: &Allowed| {
            allowed.bundles.iter().any(|pattern| bundles.clone().any(|bundle| matches(pattern, bundle)))
        };
        let unused = |(index, allowed): &(usize, &Allowed)| !self.0.contains(index) && concerned(allowed);
        let sentence = |(_, allowed): (usize, &Allowed)| {
            format!(
                "no difference any more: {} in {:?} ({}): remove it from the list",
                allowed.key, allowed.bundles, allowed.reason
            )
        };
        LIST.iter().enumerate().filter(unused).map(sentence).collect()
    }
}
