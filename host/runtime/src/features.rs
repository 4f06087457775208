//! `sandbox features`: what this runtime does, as the OCI runtime specification has it told.

use serde_json::{Value, json};

use crate::cgroup::SYSTEMD_PROPERTY;
use crate::hooks::Phase;
use crate::machine::POD_ANNOTATIONS;
use crate::spec::OCI_VERSION;

/// The first version of the specification whose configurations are understood.
const OCI_VERSION_MIN: &str = "1.0.0";

/// Options that say something about a mount and have a recursive form with `r` before it.
const ATTRIBUTES: [&str; 18] = [
    "atime",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "relatime",
    "ro",
    "rw",
    "strictatime",
    "suid",
    "symfollow",
];

/// The other options that are not the file system's own.
const OTHER_OPTIONS: [&str; 28] = [
    "acl",
    "async",
    "bind",
    "defaults",
    "dirsync",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noiversion",
    "nolazytime",
    "nomand",
    "private",
    "rbind",
    "remount",
    "ridmap",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "silent",
    "slave",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// In the kernel's order.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The document, as `sandbox features` prints it.
pub fn document() -> String {
    format!("{:#}\n", features())
}

fn features() -> Value {
    json!({
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION,
        "hooks": Phase::ALL.map(Phase::name),
        "mountOptions": mount_options(),
        "linux": linux(),
        "annotations": {"io.sandbox.version": env!("CARGO_PKG_VERSION")},
        "potentiallyUnsafeConfigAnnotations": unsafe_annotations(),
    })
}

/// Whether a mount option is one of those, and not some file system's.
pub fn knows_mount_option(option: &str) -> bool {
    let attribute = |name: &str| ATTRIBUTES.contains(&name);
    attribute(option) || OTHER_OPTIONS.contains(&option) || option.strip_prefix('r').is_some_and(attribute)
}

/// Those of config.json that change what this runtime does; a name that ends with a dot stands for all that begin so.
fn unsafe_annotations() -> Vec<&'static str> {
    ["io.sandbox.", SYSTEMD_PROPERTY].into_iter().chain(POD_ANNOTATIONS).collect()
}

fn mount_options() -> Vec<String> {
    let recursive = ATTRIBUTES.iter().map(|name| format!("r{name}"));
    let mut all: Vec<_> =
        ATTRIBUTES.iter().chain(&OTHER_OPTIONS).map(|name| name.to_string()).chain(recursive).collect();
    all.sort_unstable();
    all
}

fn linux() -> Value {
    json!({
        "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
        "capabilities": CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>(),
        // What cgroupsPath may name on the host; in the guest it is always v2.
        "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false},
        "seccomp": {
            "enabled": true,
            "actions": [
                "SCMP_ACT_ALLOW",
                "SCMP_ACT_ERRNO",
                "SCMP_ACT_KILL",
                "SCMP_ACT_KILL_PROCESS",
                "SCMP_ACT_KILL_THREAD",
                "SCMP_ACT_LOG",
                "SCMP_ACT_TRACE",
                "SCMP_ACT_TRAP"
            ],
            "operators": [
                "SCMP_CMP_EQ",
                "SCMP_CMP_GE",
                "SCMP_CMP_GT",
                "SCMP_CMP_LE",
                "SCMP_CMP_LT",
                "SCMP_CMP_MASKED_EQ",
                "SCMP_CMP_NE"
            ],
            "archs": ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            "knownFlags": [
                "SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                "SECCOMP_FILTER_FLAG_TSYNC",
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
            ],
            // The other one says how a listener waits, and there is none.
            "supportedFlags": [
                "SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                "SECCOMP_FILTER_FLAG_TSYNC"
            ],
        },
        "apparmor": {"enabled": false},
        "selinux": {"enabled": false},
        "intelRdt": {"enabled": false},
        "mountExtensions": {"idmap": {"enabled": true}},
        "netDevices": {"enabled": true},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::{Capability, Features, LinuxSeccomp};

    use super::*;

    #[test]
    fn the_document_is_one_of_the_specification() {
        let features: Features = serde_json::from_str(&document()).unwrap();
        assert_eq!(features.oci_version_max(), OCI_VERSION);
        assert_eq!(features.hooks().as_ref().unwrap().len(), 6);
        let options = features.mount_options().as_ref().unwrap();
        assert!(
            options.iter().any(|option| option == "rro") && options.iter().all(|option| knows_mount_option(option))
        );
        assert!(!knows_mount_option("size=1m") && !knows_mount_option("r") && !knows_mount_option("readonly"));
        let annotations = features.potentially_unsafe_config_annotations().as_ref().unwrap();
        for name in ["io.sandbox.", "org.systemd.property.", "io.kubernetes.cri.sandbox-memory"] {
            assert!(annotations.iter().any(|one| one == name), "{name}");
        }
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        for name in linux.capabilities().as_ref().unwrap() {
            let capability: Capability = serde_json::from_value(json!(name)).unwrap();
            assert_eq!(&serde_json::to_value(capability).unwrap(), &json!(name));
        }
    }

    #[test]
    fn seccomp_names_can_be_used() {
        let seccomp = &linux()["seccomp"];
        for action in seccomp["actions"].as_array().unwrap() {
            for operator in seccomp["operators"].as_array().unwrap() {
                let argument = json!({"index": 0, "value": 1, "op": operator});
                let profile = json!({
                    "defaultAction": action,
                    "architectures": seccomp["archs"],
                    "flags": seccomp["knownFlags"],
                    "syscalls": [{"names": ["read"], "action": action, "args": [argument]}],
                });
                serde_json::from_value::<LinuxSeccomp>(profile).unwrap();
            }
        }
    }

    /// The agent is a program of its own; what it knows is read off its text.
    #[test]
    fn mount_options_are_those_that_the_agent_knows() {
        let agent = include_str!("../../../guest-agent/src/mounts/options.rs");
        let mut known = BTreeSet::new();
        for line in agent.lines() {
            let Some((patterns, arm)) = line.trim().split_once(" => ") else { continue };
            if !patterns.starts_with('"') || arm.contains("Unsupported") {
                continue;
            }
            for name in patterns.split(" | ").map(|name| name.trim_matches('"')).filter(|name| !name.is_empty()) {
                known.insert(name.to_string());
                // Its attributes are one function's answer; with an `r` they are looked up again.
                if arm.starts_with("f(") {
                    known.insert(format!("r{name}"));
                }
            }
        }
        assert_eq!(mount_options().into_iter().collect::<BTreeSet<_>>(), known);
    }
}
