//! Limits of the control group.

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("memory", |_, bundle| {
        with(bundle, json!({ "memory": { "limit": 134_217_728, "reservation": 67_108_864, "swap": 201_326_592 } }))
    }),
    variant("memory-without-swap", |_, bundle| {
        with(bundle, json!({ "memory": { "limit": 134_217_728, "swap": 134_217_728, "disableOOMKiller": false } }))
    }),
    variant("memory-unlimited", |_, bundle| with(bundle, json!({ "memory": { "limit": -1, "swap": -1 } }))),
    variant("memory-unaligned", |_, bundle| with(bundle, json!({ "memory": { "limit": 100_000_001, "swap": -1 } }))),
    variant("cpu-shares", |_, bundle| with(bundle, json!({ "cpu": { "shares": 333 } }))),
    variant("cpu-shares-least", |_, bundle| with(bundle, json!({ "cpu": { "shares": 2 } }))),
    variant("cpu-quota", |_, bundle| with(bundle, json!({ "cpu": { "quota": 25_000, "period": 50_000 } }))),
    variant("cpu-quota-unlimited", |_, bundle| with(bundle, json!({ "cpu": { "quota": -1, "period": 20_000 } }))),
    Variant {
        name: "cpu-burst-idle",
        make: |_, bundle| {
            with(bundle, json!({ "cpu": { "quota": 25_000, "period": 50_000, "burst": 10_000, "idle": 1 } }))
        },
        instead: &[
            ("cgroup:cpu.max.burst", "10000"),
            ("cgroup:cpu.idle", "1"),
            ("cgroup:cpu.weight", "1"),
            ("cgroup:cpu.weight.nice", "19"),
        ],
    },
    variant("cpu-set", |_, bundle| with(bundle, json!({ "cpu": { "cpus": "0", "mems": "0" } }))),
    variant("pids", |_, bundle| with(bundle, json!({ "pids": { "limit": 50 } }))),
    variant("pids-unlimited", |_, bundle| with(bundle, json!({ "pids": { "limit": -1 } }))),
    Variant {
        name: "huge-pages",
        make: |_, bundle| with(bundle, json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }] })),
        instead: &[("cgroup:hugetlb.2MB.rsvd.max", "4194304")],
    },
    variant("block-io", |_, bundle| with(bundle, json!({ "blockIO": { "weight": 500 } }))),
    variant("unified", |_, bundle| {
        with(
            bundle,
            json!({ "unified": { "memory.high": "100000000", "memory.low": "4096", "cpu.weight": "77", "pids.max": "99", "memory.oom.group": "1" } }),
        )
    }),
    variant("unified-unknown", |_, bundle| with(bundle, json!({ "unified": { "no.such.file": "1" } }))),
];

fn with(bundle: Bundle, mut resources: Value) -> Bundle {
    resources["devices"] = json!([{ "allow": false, "access": "rwm" }]);
    bundle.set("/linux/resources", resources)
}
