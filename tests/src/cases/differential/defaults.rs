//! What docker, Kubernetes' containerd, podman and `runc spec` write without being asked for anything special.

use serde_json::json;

use super::{Variant, variant};
use crate::Env;
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("plain", |_, bundle| bundle),
    variant("docker", docker),
    variant("docker-privileged", docker_privileged),
    variant("docker-read-only", |env, bundle| {
        docker(env, bundle)
            .set("/root/readonly", json!(true))
            .mount(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "nosuid", "nodev", "size=1m"] }))
    }),
    variant("docker-user", |env, bundle| {
        docker(env, bundle)
            .set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [1000, 27] }))
            .set("/process/noNewPrivileges", json!(true))
    }),
    variant("docker-limits", |env, bundle| {
        docker(env, bundle)
            .set("/linux/resources/memory", json!({ "limit": 134_217_728, "swap": 268_435_456 }))
            .set("/linux/resources/cpu", json!({ "shares": 512, "quota": 150_000, "period": 100_000 }))
            .set("/linux/resources/pids", json!({ "limit": 100 }))
            .set("/linux/resources/blockIO", json!({ "weight": 300 }))
    }),
    variant("docker-host-namespaces", |env, bundle| {
        let mut bundle = docker(env, bundle).without_namespace("pid").without_namespace("ipc").without_namespace("uts");
        bundle.spec.as_object_mut().expect("an object").remove("hostname");
        bundle
    }),
    variant("kubernetes", kubernetes),
    variant("kubernetes-pause", |env, bundle| {
        kubernetes(env, bundle)
            .set("/process/noNewPrivileges", json!(true))
            .set("/process/user", json!({ "uid": 65535, "gid": 65535 }))
            .set("/process/oomScoreAdj", json!(-998))
            .set("/root/readonly", json!(true))
            .set("/linux/resources/cpu", json!({ "shares": 102 }))
    }),
    variant("podman", podman),
    variant("runc-spec", runc_spec),
];

/// As docker 20.10 does it on a machine with cgroup v2, without AppArmor.
pub(super) fn docker(env: &Env, bundle: Bundle) -> Bundle {
    let group = format!("/docker-{}", bundle.id);
    let capabilities = bundle.spec["process"]["capabilities"]["bounding"].clone();
    let mut bundle = bundle
        .set("/process/capabilities", json!({
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities, "inheritable": capabilities
        }))
        .set("/process/env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=0123456789ab"]))
        .set("/process/oomScoreAdj", json!(0))
        .set("/hostname", json!("0123456789ab"))
        .set("/linux/sysctl", json!({ "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" }))
        .set("/linux/seccomp", super::seccomp::docker_profile())
        .set("/linux/maskedPaths", json!([
            "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"
        ]))
        .set("/linux/resources/devices", json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm" },
            { "allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm" },
            { "allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm" },
            { "allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm" }
        ]))
        .set("/linux/cgroupsPath", json!(group));
    bundle.spec["process"].as_object_mut().expect("an object").remove("rlimits");
    for name in ["resolv.conf", "hostname", "hosts"] {
        let file = env.file(name, format!("content of {name}\n"));
        bundle = bundle.bind(&file, &format!("/etc/{name}"), &["rprivate"]);
    }
    bundle
}

fn docker_privileged(env: &Env, bundle: Bundle) -> Bundle {
    let mut bundle = docker(env, bundle);
    let all = super::capabilities::all();
    bundle = bundle
        .set(
            "/process/capabilities",
            json!({ "bounding": all, "effective": all, "permitted": all, "inheritable": all }),
        )
        .set("/linux/resources/devices", json!([{ "allow": true, "access": "rwm" }]))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]));
    for mount in bundle.spec["mounts"].as_array_mut().expect("a list") {
        if mount["type"] == "sysfs" || mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    bundle.spec["linux"].as_object_mut().expect("an object").remove("seccomp");
    bundle
}

/// As containerd's CRI plugin does it, with a sandbox's shared memory and files.
///
/// A small quota would hold for the micro-VM's start as well, which takes a minute of the lab's processor then.
fn kubernetes(env: &Env, bundle: Bundle) -> Bundle {
    let group = format!("/cri-containerd-{}", bundle.id);
    let shm = env.directory("shm");
    let file = env.file("etc-hosts", "127.0.0.1 localhost\n");
    let mut bundle = bundle
        .set("/process/oomScoreAdj", json!(1000))
        .set("/linux/resources", json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "memory": { "limit": 67_108_864, "swap": 67_108_864 },
            "cpu": { "shares": 102, "quota": 100_000, "period": 100_000 },
            "unified": { "memory.oom.group": "1" }
        }))
        .set("/linux/cgroupsPath", json!(group))
        .set("/linux/seccomp", super::seccomp::docker_profile())
        .set("/mounts", json!([
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            { "destination": "/etc/hosts", "type": "bind", "source": file, "options": ["rbind", "rprivate", "rw"] },
            { "destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rprivate", "rw"] },
            { "destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }
        ]));
    bundle.spec.as_object_mut().expect("an object").remove("hostname");
    bundle
}

/// As podman 4 does it for root.
fn podman(env: &Env, bundle: Bundle) -> Bundle {
    let file = env.file("containerenv", "");
    let bundle = bundle
        .set(
            "/process/env",
            json!([
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "container=podman",
                "TERM=xterm",
                "HOME=/root",
                "HOSTNAME=pod"
            ]),
        )
        .set("/process/user", json!({ "uid": 0, "gid": 0, "umask": 0o022, "additionalGids": [1, 2, 3] }))
        .set(
            "/process/rlimits",
            json!([
                { "type": "RLIMIT_NOFILE", "hard": 1_048_576, "soft": 1_048_576 },
                { "type": "RLIMIT_NPROC", "hard": 4_194_304, "soft": 4_194_304 }
            ]),
        )
        .set("/linux/resources", json!({ "devices": [{ "allow": false, "access": "rwm" }], "pids": { "limit": 2048 } }))
        .set("/linux/rootfsPropagation", json!("slave"))
        .bind(&file, "/run/.containerenv", &["rprivate"]);
    let mut bundle = bundle.set("/linux/seccomp", super::seccomp::docker_profile());
    for mount in bundle.spec["mounts"].as_array_mut().expect("a list") {
        match mount["destination"].as_str() {
            Some("/dev/shm") => {
                mount["options"] = json!(["rprivate", "nosuid", "noexec", "nodev", "mode=1777", "size=65536000"])
            }
            Some("/sys/fs/cgroup") => {
                mount["options"] = json!(["rprivate", "noexec", "nosuid", "nodev", "relatime", "ro"])
            }
            _ => {}
        }
    }
    bundle
}

fn runc_spec(_: &Env, bundle: Bundle) -> Bundle {
    let set = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    bundle
        .set("/process/capabilities", json!({ "bounding": set, "effective": set, "permitted": set, "ambient": set }))
        .set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }]))
        .set("/process/noNewPrivileges", json!(true))
        .set("/root/readonly", json!(true))
        .set("/hostname", json!("runc"))
}
