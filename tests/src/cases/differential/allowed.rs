//! The differences that are allowed, each with its reason. A line that allows nothing any more fails its case, so that the
//! list says what is so.

use std::collections::BTreeSet;

use super::compare::{Difference, matches};

/// Patterns of bundle names, patterns of the key and of both values, reason.
struct Allowed {
    bundles: &'static [&'static str],
    key: &'static str,
    runc: &'static str,
    sandbox: &'static str,
    reason: &'static str,
}

const EVERYWHERE: &[&str] = &["*"];

const fn everywhere(key: &'static str, reason: &'static str) -> Allowed {
    only(EVERYWHERE, key, reason)
}

const fn only(bundles: &'static [&'static str], key: &'static str, reason: &'static str) -> Allowed {
    values(bundles, key, "*", "*", reason)
}

const fn values(
    bundles: &'static [&'static str],
    key: &'static str,
    runc: &'static str,
    sandbox: &'static str,
    reason: &'static str,
) -> Allowed {
    Allowed { bundles, key, runc, sandbox, reason }
}

const PROCESSORS: &str = "the guest has the processors that it was given";
const MEMORY: &str = "the kernel's default, a share of the machine's memory";
const OLDER_RUNC: &str = "runc 1.1.10 and newer give the cgroup to the user, as sandbox does; Debian 12's is older";
const NO_ACPI: &str = "the guest has no ACPI";
const SHARE: &str = "files are shared by virtio-fs: the host's file system does not show";
const OWN_NAME: &str = "the guest is a machine with a name of its own; the host's is not told to it";
const PROPAGATION: &str = "mounts of the host cannot propagate into a guest";

/// Bundles with bind mounts.
const BINDS: &[&str] = &[
    "docker*",
    "kubernetes*",
    "podman",
    "bind*",
    "mounts-over-links",
    "root-read-only-missing-mount-point",
    "paths-both",
];
const USER_NAMESPACES: &[&str] = &["user-namespace*"];

const LIST: &[Allowed] = &[
    // A container in a machine of its own.
    everywhere("cgroup:cpuset.*.effective", PROCESSORS),
    everywhere("status.Cpus_allowed_list", PROCESSORS),
    everywhere("read:/proc/acpi", NO_ACPI),
    everywhere("mount:/proc/acpi:*", NO_ACPI),
    only(&["docker-privileged", "paths-*"], "read:/sys/firmware", NO_ACPI),
    everywhere("read:/proc/bus", "the guest has no PCI"),
    everywhere("call.quotactl", "the guest's kernel has no quota: files are the host's"),
    everywhere(
        "network.interfaces",
        "the lab's host kernel has a bonding driver, which shows in each network namespace",
    ),
    only(&["without-network", "only-mount"], "network.routes", "the guest's network is not the host's"),
    everywhere("status.SigIgn", "runc passes on what its caller ignores; the guest's first process has no caller"),
    everywhere("fd.0*", "runc makes a pipe of the caller's /dev/null"),
    only(&["docker-host-namespaces", "kubernetes*", "without-uts", "only-mount"], "name.host", OWN_NAME),
    only(&["docker-host-namespaces", "kubernetes*", "without-uts", "only-mount"], "sysctl:kernel/hostname", OWN_NAME),
    values(
        &["without-cgroup", "only-mount"],
        "mount:/sys/fs/cgroup:directory shown",
        "/",
        "/containers/differential-*",
        "above the container's cgroup is the agent's, which no container is shown",
    ),
    values(&["shell-status"], "line *", "SigIgn:*", "SigIgn:*", "runc passes on what its caller ignores"),
    values(&["bind-file"], "env:HOME", "", "/", "an /etc/passwd that is none: runc takes its line for a user's"),
    values(
        &["terminal*"],
        "fd.*.flags",
        "0100002",
        "02000002",
        "what opened the terminal shows: open(2) or TIOCGPTPEER",
    ),
    values(
        &["terminal*"],
        "fd.*.modes",
        "2400 1 *",
        "2400 5 *",
        "in the foreground runc leaves newlines to the caller's terminal, sandbox to the container's",
    ),
    values(
        &["without-cgroup", "only-mount"],
        "mount:/sys/fs/cgroup:mode",
        "555 *",
        "*",
        "above the container's cgroup is the agent's, which no container is shown",
    ),
    values(
        &["limits-twice"],
        "exit",
        "0 *",
        "1 *",
        "the specification asks for an error; runc of Debian 12 takes the last",
    ),
    // The share is virtio-fs, not the host's file system.
    everywhere("mount:/:type", SHARE),
    everywhere("mount:/:source", SHARE),
    everywhere("mount:/:super options", SHARE),
    everywhere("mount:/:propagation", PROPAGATION),
    values(BINDS, "mount:*:type*", "ext4", "virtiofs", SHARE),
    values(BINDS, "mount:*:source*", "/dev/*", "*", SHARE),
    values(BINDS, "mount:*:options*", "*noatime*", "*relatime*", SHARE),
    values(
        &["bind*", "mounts-over-links", "paths-both", "root-read-only-missing-mount-point"],
        "mount:*:propagation*",
        "*master",
        "*",
        PROPAGATION,
    ),
    values(&["tmpfs"], "mount:/mnt:super options", "rw,inode64", "rw,size=*", MEMORY),
    only(&["cgroup-writable-user"], "cgroup.writable", OLDER_RUNC),
    only(&["cgroup-writable-user"], "mount:/sys/fs/cgroup:mode", OLDER_RUNC),
    only(&["cgroup-writable-user"], "write:/sys/fs/cgroup/cgroup.procs", OLDER_RUNC),
    values(
        &["devices-user-namespace"],
        "exit",
        "1 *",
        "0 *",
        "runc 1.1.5 makes no directory for a device that it binds",
    ),
    values(
        &["docker-read-only"],
        "mount:/tmp:super options",
        "rw,size=1024k,inode64",
        "rw,size=1024k,mode=755,inode64",
        "the mode of the directory below is an option of the mount here, and set afterwards by runc",
    ),
    values(
        &["devices-default-again"],
        "exit",
        "1 *",
        "0 *",
        "runc takes the device's default rule away when it is listed again, and then fails itself",
    ),
    values(
        &["devices-rules-refusal-last"],
        "node:*:kmsg",
        "mknod !EPERM",
        "open *",
        "making nodes is allowed for all devices at the list's end; runc's imitation of cgroup v1 keeps the exact refusal",
    ),
    values(&["no-mounts"], "exit", "1 *", "5 *", "runc itself cannot do without a /proc in the container"),
    only(&["only-proc", "devices-without-dev"], "mount:/proc/*", SHARE),
    values(&["paths-read-only"], "mount:*", "*", "*", SHARE),
    // In a user namespace devices are bind mounts of the machine's.
    only(USER_NAMESPACES, "mount:/dev/*:options", "devices are those of the guest's /dev, mounted nosuid and noexec"),
    only(USER_NAMESPACES, "mount:/dev/*:super options", MEMORY),
    only(USER_NAMESPACES, "mount:/dev/*:propagation", PROPAGATION),
    only(USER_NAMESPACES, "mounts", "which device is mounted first means nothing"),
    only(USER_NAMESPACES, "mount:/proc/*:options", "devices are those of the guest's /dev, mounted nosuid and noexec"),
    only(USER_NAMESPACES, "mount:/proc/*:super options", MEMORY),
    only(USER_NAMESPACES, "mount:/proc/*:propagation", PROPAGATION),
    values(
        &["docker*", "limits-*"],
        "limit.Max open files",
        "524288 524288",
        "1024 524288",
        "runc 1.1's own runtime raises its soft limit to the hard one, and the container gets that; ours is the caller's",
    ),
    values(
        USER_NAMESPACES,
        "*/dev/mqueue*",
        "*0:65534",
        "*0:0",
        "the message queues belong to root, and not to a group that nobody is in",
    ),
    values(&["overlay"], "mount:/volume:type", "overlay", "virtiofs", SHARE),
    values(&["overlay"], "mount:/volume:source", "overlay", "none", SHARE),
    values(&["overlay"], "mount:/volume:super options", "rw,lowerdir=*", "rw", SHARE),
    values(
        &["tmpfs-on-existing", "tmpfs-copy-up-of-mode"],
        "mount:/scratch:super options",
        "rw,inode64",
        "rw,mode=700,inode64",
        "the mode of the directory that was there is set by the mount itself; runc sets it afterwards",
    ),
];

/// Which lines were needed.
#[derive(Default)]
pub(super) struct Used(BTreeSet<usize>);

impl Used {
    /// Whether the list allows a difference.
    pub(super) fn allows(&mut self, bundle: &str, difference: &Difference) -> bool {
        let value = |value: &Option<String>| value.clone().unwrap_or_default();
        let (runc, sandbox) = (value(&difference.runc), value(&difference.sandbox));
        let of = |allowed: &Allowed| {
            allowed.bundles.iter().any(|pattern| matches(pattern, bundle))
                && matches(allowed.key, &difference.key)
                && matches(allowed.runc, &runc)
                && matches(allowed.sandbox, &sandbox)
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
