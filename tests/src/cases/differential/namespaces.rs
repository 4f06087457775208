//! Namespaces left out and added, and what belongs to them.

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::bundle::Bundle;
use crate::host;

pub(super) const BUNDLES: &[Variant] = &[
    variant("without-pid", |_, bundle| bundle.without_namespace("pid")),
    variant("without-ipc", |_, bundle| bundle.without_namespace("ipc")),
    variant("without-uts", |_, bundle| nameless(bundle.without_namespace("uts"))),
    variant("without-network", |_, bundle| bundle.without_namespace("network")),
    variant("without-cgroup", |_, bundle| bundle.without_namespace("cgroup")),
    variant("only-mount", |_, bundle| nameless(bundle.set("/linux/namespaces", json!([{ "type": "mount" }])))),
    variant("user-namespace", |_, bundle| {
        user(bundle, json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]))
    }),
    variant("user-namespace-many-mappings", |_, bundle| {
        user(
            bundle,
            json!([
                { "containerID": 0, "hostID": 100_000, "size": 1 },
                { "containerID": 1, "hostID": 200_000, "size": 999 },
                { "containerID": 1000, "hostID": 1000, "size": 1 }
            ]),
        )
        .set("/process/user", json!({ "uid": 1000, "gid": 1000, "additionalGids": [5] }))
    }),
    variant("user-namespace-all-capabilities", |_, bundle| {
        let all = super::capabilities::all();
        user(bundle, json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]))
            .set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }))
    }),
    Variant {
        name: "time-namespace",
        make: |env, bundle| {
            // runc refuses a kind of namespace that it does not know.
            if env.is_runc() {
                return bundle;
            }
            bundle.namespace(json!({ "type": "time" })).set(
                "/linux/timeOffsets",
                json!({ "monotonic": { "secs": 86400, "nanosecs": 5 }, "boottime": { "secs": 172_800, "nanosecs": 0 } }),
            )
        },
        instead: &[
            ("namespace.time", "own"),
            ("namespace.time_for_children", "own"),
            ("namespace.timens_offsets", "monotonic 86400 5; boottime 172800 0"),
        ],
    },
    variant("names", |_, bundle| bundle.set("/hostname", json!(format!("{}.example", "a".repeat(56))))),
    Variant {
        name: "domain-name",
        make: |_, bundle| bundle.set("/domainname", json!("some.domain")),
        instead: &[("name.domain", "some.domain"), ("sysctl:kernel/domainname", "some.domain")],
    },
    variant("sysctls", |_, bundle| {
        bundle.set(
            "/linux/sysctl",
            json!({
                "net.ipv4.ip_forward": "1", "net.ipv4.ip_local_port_range": "20000 30000", "net.core.somaxconn": "1000",
                "net.ipv6.conf.all.disable_ipv6": "1", "kernel.shmmax": "1000000", "kernel.shmall": "5000", "kernel.shmmni": "100",
                "kernel.shm_rmid_forced": "1", "kernel.msgmax": "9000", "kernel.msgmnb": "17000", "kernel.msgmni": "500",
                "kernel.sem": "100 200 30 40", "fs.mqueue.msg_max": "20", "fs.mqueue.msgsize_max": "9000", "fs.mqueue.queues_max": "33"
            }),
        )
    }),
    variant("sysctl-with-slashes", |_, bundle| {
        bundle.set("/linux/sysctl", json!({ "net/ipv4/conf/lo/forwarding": "1", "net.ipv4/tcp_syncookies": "0" }))
    }),
    variant("sysctl-of-the-host", |_, bundle| bundle.set("/linux/sysctl", json!({ "vm.overcommit_memory": "1" }))),
    variant("sysctl-without-namespace", |_, bundle| {
        bundle.without_namespace("ipc").set("/linux/sysctl", json!({ "kernel.msgmax": "9000" }))
    }),
    variant("hostname-without-namespace", |_, bundle| bundle.without_namespace("uts")),
];

/// Without a hostname, which needs a namespace of its own.
fn nameless(mut bundle: Bundle) -> Bundle {
    bundle.spec.as_object_mut().expect("an object").remove("hostname");
    bundle
}

/// With a user namespace, the root file system being its root's.
fn user(bundle: Bundle, mapping: Value) -> Bundle {
    host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
    bundle
        .namespace(json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
}
