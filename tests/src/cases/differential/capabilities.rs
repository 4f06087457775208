//! Users, groups and capabilities.

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("capabilities-none", |_, bundle| bundle.set("/process/capabilities", json!({}))),
    variant("capabilities-not-given", |_, mut bundle| {
        bundle.spec["process"].as_object_mut().expect("an object").remove("capabilities");
        bundle
    }),
    variant("capabilities-all", |_, bundle| {
        let all = all();
        sets(bundle, json!({ "bounding": all, "effective": all, "permitted": all, "inheritable": all, "ambient": all }))
    }),
    variant("capabilities-bounding-only", |_, bundle| sets(bundle, json!({ "bounding": ["CAP_CHOWN", "CAP_KILL"] }))),
    variant("capabilities-inheritable", |_, bundle| {
        let set = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"]);
        sets(
            bundle,
            json!({ "bounding": set, "effective": ["CAP_CHOWN"], "permitted": set, "inheritable": ["CAP_KILL"] }),
        )
    }),
    variant("capabilities-ambient-user", |_, bundle| {
        let set = json!(["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]);
        let ambient = json!(["CAP_NET_RAW"]);
        sets(
            bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })),
            json!({ "bounding": set, "effective": set, "permitted": set, "inheritable": ambient, "ambient": ambient }),
        )
    }),
    variant("capabilities-user", |_, bundle| bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }))),
    variant("capabilities-unknown", |_, bundle| {
        sets(bundle, json!({ "bounding": ["CAP_CHOWN", "CAP_FLY"], "permitted": ["CAP_CHOWN"] }))
    }),
    variant("capabilities-mknod-and-admin", |_, bundle| {
        let set =
            json!(["CAP_MKNOD", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_RESOURCE", "CAP_BPF", "CAP_PERFMON"]);
        sets(bundle, json!({ "bounding": set, "effective": set, "permitted": set }))
    }),
    variant("no-new-privileges", |_, bundle| bundle.set("/process/noNewPrivileges", json!(true))),
    variant("user-groups-umask", |_, bundle| {
        bundle
            .set(
                "/process/user",
                json!({ "uid": 1234, "gid": 5678, "additionalGids": [0, 7, 5678, 100_000, 7], "umask": 0o077 }),
            )
            .set("/process/cwd", json!("/tmp"))
    }),
    variant("user-root-other-group", |_, bundle| {
        bundle.set("/process/user", json!({ "uid": 0, "gid": 42, "umask": 0 }))
    }),
    variant("user-largest", |_, bundle| {
        bundle.set("/process/user", json!({ "uid": 4_294_967_294u32, "gid": 4_294_967_294u32 }))
    }),
];

fn sets(bundle: Bundle, sets: Value) -> Bundle {
    bundle.set("/process/capabilities", sets)
}

/// Every capability of Linux up to CAP_CHECKPOINT_RESTORE.
pub(super) fn all() -> Value {
    let names = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE \
        NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN \
        SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE \
        MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
    names.split_whitespace().map(|name| format!("CAP_{name}")).collect()
}
