//! The root file system, and paths that are hidden or protected.

use serde_json::json;

use super::mounts::volume;
use super::{Variant, variant};

pub(super) const BUNDLES: &[Variant] = &[
    variant("root-read-only", |_, bundle| bundle.set("/root/readonly", json!(true))),
    variant("root-read-only-missing-mount-point", |env, bundle| {
        bundle.set("/root/readonly", json!(true)).bind(&volume(env), "/volume", &[])
    }),
    variant("root-private", |_, bundle| bundle.set("/linux/rootfsPropagation", json!("private"))),
    variant("root-shared", |_, bundle| bundle.set("/linux/rootfsPropagation", json!("shared"))),
    variant("root-slave", |_, bundle| bundle.set("/linux/rootfsPropagation", json!("rslave"))),
    variant("root-unbindable", |_, bundle| bundle.set("/linux/rootfsPropagation", json!("unbindable"))),
    variant("paths-none", |_, bundle| {
        bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]))
    }),
    variant("paths-masked", |_, bundle| {
        bundle.set(
            "/linux/maskedPaths",
            json!(["/etc/passwd", "/root", "/proc/interrupts", "/proc/irq", "/no/such/path", "/dev/full"]),
        )
    }),
    variant("paths-read-only", |_, bundle| {
        bundle.set(
            "/linux/readonlyPaths",
            json!(["/etc", "/bin/busybox", "/proc/sys", "/dev/shm", "/no/such/path", "/tmp"]),
        )
    }),
    variant("paths-both", |env, bundle| {
        bundle
            .bind(&volume(env), "/volume", &[])
            .set("/linux/maskedPaths", json!(["/volume/file", "/volume/inner"]))
            .set("/linux/readonlyPaths", json!(["/volume"]))
    }),
];
