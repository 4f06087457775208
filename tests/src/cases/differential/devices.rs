//! Devices, and rules about them.

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("devices-added", |_, bundle| {
        bundle.set("/linux/devices", json!([
            { "path": "/dev/extra/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4 },
            { "path": "/dev/extra/block", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
            { "path": "/dev/extra/fifo", "type": "p", "fileMode": 0o622 },
            { "path": "/dev/extra/unbuffered", "type": "u", "major": 1, "minor": 3 },
            { "path": "/elsewhere/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666 }
        ]))
        .set("/linux/resources/devices", json!([
            { "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "r" }
        ]))
    }),
    variant("devices-default-again", |_, bundle| {
        bundle.set("/linux/devices", json!([{ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7, "gid": 7 }]))
    }),
    variant("devices-rules-none", |_, bundle| rules(bundle, json!([]))),
    variant("devices-rules-all", |_, bundle| rules(bundle, json!([{ "allow": true, "access": "rwm" }]))),
    variant("devices-rules-some", |_, bundle| {
        rules(
            bundle,
            json!([
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw" },
                { "allow": true, "type": "c", "major": 10, "access": "m" }
            ]),
        )
    }),
    variant("devices-rules-refusal-last", |_, bundle| {
        rules(
            bundle,
            json!([
                { "allow": true, "access": "rwm" },
                { "allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm" },
                { "allow": false, "type": "b", "access": "rwm" },
                { "allow": false, "type": "c", "major": 10, "minor": 200, "access": "w" }
            ]),
        )
    }),
    variant("devices-user-namespace", |_, bundle| {
        crate::host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
        let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        bundle
            .namespace(json!({ "type": "user" }))
            .set("/linux/uidMappings", mapping.clone())
            .set("/linux/gidMappings", mapping)
            .set(
                "/linux/devices",
                json!([{ "path": "/dev/extra/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666 }]),
            )
    }),
    variant("devices-without-dev", |_, mut bundle| {
        bundle.spec["mounts"]
            .as_array_mut()
            .expect("a list")
            .retain(|mount| !mount["destination"].as_str().is_some_and(|destination| destination.starts_with("/dev")));
        bundle
    }),
];

/// With every capability that making nodes takes, so that the rules are what counts.
fn rules(bundle: Bundle, rules: Value) -> Bundle {
    bundle.set("/linux/resources/devices", rules)
}
