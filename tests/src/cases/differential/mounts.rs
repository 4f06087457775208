//! Mounts of every type with their options.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::Env;
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("tmpfs", |_, bundle| {
        bundle
            .mount(tmpfs("/scratch", &["nosuid", "noexec", "mode=1770", "size=1m", "nr_inodes=100", "uid=5", "gid=6"]))
            .mount(tmpfs("/new/second", &[]))
            .mount(tmpfs("/mnt", &["ro", "noatime", "size=50%"]))
    }),
    variant("tmpfs-copy-up", |_, bundle| {
        let inside = bundle.host_path("/scratch");
        fs::create_dir_all(inside.join("below")).expect("create");
        fs::write(inside.join("file"), "content").expect("write");
        fs::set_permissions(inside.join("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
        chown(inside.join("file"), Some(3), Some(4)).expect("chown");
        bundle.mount(tmpfs("/scratch", &["tmpcopyup", "size=1m", "mode=755"]))
    }),
    variant("tmpfs-copy-up-of-mode", |_, bundle| {
        let inside = bundle.host_path("/scratch");
        fs::create_dir_all(&inside).expect("create");
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o700)).expect("chmod");
        bundle.mount(tmpfs("/scratch", &["tmpcopyup"]))
    }),
    variant("tmpfs-read-only-with-more-inside", |_, bundle| {
        let devices = json!([{ "path": "/mnt/null", "type": "c", "major": 1, "minor": 3 }]);
        bundle
            .mount(tmpfs("/mnt", &["ro", "mode=755", "size=1m"]))
            .mount(tmpfs("/mnt/below", &["mode=700", "size=1m"]))
            .set("/linux/devices", devices)
            .set("/process/cwd", json!("/mnt/directory"))
    }),
    variant("tmpfs-on-existing", |_, bundle| {
        let inside = bundle.host_path("/scratch");
        fs::create_dir_all(&inside).expect("create");
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o700)).expect("chmod");
        bundle.mount(tmpfs("/scratch", &["nosuid"]))
    }),
    variant("mqueue-and-devpts", |_, bundle| {
        replace(
            replace(bundle, "/dev/mqueue", json!(["nosuid"])),
            "/dev/pts",
            json!(["newinstance", "ptmxmode=0600", "mode=0600", "uid=7", "gid=8"]),
        )
    }),
    variant("cgroup-writable", |_, bundle| {
        replace(bundle, "/sys/fs/cgroup", json!(["nosuid", "noexec", "nodev", "relatime", "rw"]))
    }),
    variant("cgroup-writable-user", |_, bundle| {
        replace(bundle, "/sys/fs/cgroup", json!(["nosuid", "noexec", "nodev", "relatime", "rw"]))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    variant("cgroup2", |_, mut bundle| {
        for mount in bundle.spec["mounts"].as_array_mut().expect("a list") {
            if mount["type"] == "cgroup" {
                mount["type"] = json!("cgroup2");
                mount["options"] = json!(["ro", "nosuid"]);
            }
        }
        bundle
    }),
    variant("proc-hidden", |_, bundle| {
        replace(bundle, "/proc", json!(["hidepid=2", "nosuid", "nodev", "noexec"]))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    variant("sysfs-writable", |_, bundle| replace(bundle, "/sys", json!(["rw", "noexec"]))),
    variant("no-mounts", |_, bundle| {
        bundle
            .set("/mounts", json!([]))
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]))
            .args(&["sh", "-c", "ls /proc /dev /sys; exit 5"])
    }),
    variant("only-proc", |_, bundle| {
        bundle.set("/mounts", json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]))
    }),
    variant("shm-options", |_, bundle| replace(bundle, "/dev/shm", json!(["mode=1777", "size=1m", "noatime", "sync"]))),
    variant("dev-read-only", |_, bundle| {
        replace(bundle, "/dev", json!(["nosuid", "strictatime", "mode=755", "size=65536k", "ro"]))
    }),
    variant("overlay", |env, bundle| {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| fresh(env, &format!("overlay-{name}")));
        fs::write(lower.join("file"), "lower").expect("write");
        let options = [("lowerdir", lower), ("upperdir", upper), ("workdir", work)]
            .map(|(name, path)| format!("{name}={}", path.display()));
        bundle.mount(json!({ "destination": "/volume", "type": "overlay", "source": "overlay", "options": options }))
    }),
    variant("mounts-over-links", |env, bundle| {
        let volume = volume(env);
        std::os::unix::fs::symlink("/tmp/target", bundle.host_path("/link")).expect("symlink");
        fs::create_dir(bundle.host_path("/tmp/target")).expect("create");
        std::os::unix::fs::symlink("../../../../mnt", bundle.host_path("/escape")).expect("symlink");
        bundle.bind(&volume, "/link/below", &[]).bind(&volume, "/escape", &[])
    }),
    variant("unknown-option", |_, bundle| bundle.mount(tmpfs("/scratch", &["no-such-option"]))),
    variant("unknown-type", |_, bundle| {
        bundle.mount(json!({ "destination": "/scratch", "type": "nofs", "source": "none" }))
    }),
];

pub(super) const BINDS: &[Variant] = &[
    variant("bind", |env, bundle| bundle.bind(&volume(env), "/volume", &[])),
    variant("bind-read-only", |env, bundle| bundle.bind(&volume(env), "/volume", &["ro"])),
    variant("bind-not-recursive", |env, bundle| {
        bundle.mount(json!({ "destination": "/volume", "type": "none", "source": volume(env), "options": ["bind", "nosuid", "nodev", "noexec"] }))
    }),
    variant("bind-recursively-read-only", |env, bundle| bundle.bind(&volume(env), "/volume", &["rro"])),
    variant("bind-flags", |env, bundle| {
        let volume = volume(env);
        bundle
            .bind(&volume, "/new/noexec", &["noexec", "nosuid", "nodev"])
            .bind(&volume, "/new/noatime", &["noatime", "nodiratime"])
            .bind(&volume, "/new/strict", &["strictatime", "rw"])
    }),
    variant("bind-propagation", |env, bundle| {
        let volume = volume(env);
        bundle
            .bind(&volume, "/new/private", &["rprivate"])
            .bind(&volume, "/new/slave", &["rslave"])
            .bind(&volume, "/new/shared", &["rshared"])
            .bind(&volume, "/new/unbindable", &["unbindable"])
            .mount(tmpfs("/scratch", &["shared"]))
    }),
    variant("bind-nested", |env, bundle| {
        let (outer, inner) = (volume(env), fresh(env, "nested"));
        bundle.bind(&outer, "/volume", &[]).bind(&inner, "/volume/inner", &["ro"]).mount(tmpfs("/scratch", &[])).bind(
            &inner,
            "/scratch/a/b",
            &[],
        )
    }),
    variant("bind-file", |env, bundle| {
        let file = env.file("single", "one file\n");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).expect("chmod");
        bundle.bind(&file, "/etc/new.conf", &["ro"]).bind(&file, "/etc/passwd", &[]).bind(&file, "/new/deep/file", &[])
    }),
    variant("bind-device-and-dev-file", |env, bundle| {
        let file = env.file("in-dev", "x");
        bundle.bind(&file, "/dev/file", &[]).bind(&volume(env), "/dev/volume", &[])
    }),
    variant("bind-missing-source", |env, bundle| bundle.bind(&env.scratch().join("no-such-source"), "/volume", &[])),
    variant("bind-file-over-directory", |env, bundle| bundle.bind(&env.file("single", "x"), "/tmp", &[])),
    variant("bind-directory-over-file", |env, bundle| bundle.bind(&volume(env), "/etc/passwd", &[])),
    variant("bind-over-root-directories", |env, bundle| {
        bundle
            .bind(&volume(env), "/etc", &[])
            .bind(&fresh(env, "home"), "/root", &["ro"])
            .set("/root/readonly", json!(true))
    }),
];

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options })
}

/// Other options for a mount that is there.
fn replace(mut bundle: Bundle, destination: &str, options: Value) -> Bundle {
    for mount in bundle.spec["mounts"].as_array_mut().expect("a list") {
        if mount["destination"] == destination {
            mount["options"] = options.clone();
        }
    }
    bundle
}

/// An empty directory.
fn fresh(env: &Env, name: &str) -> PathBuf {
    let path = env.scratch().join(name);
    let _ = fs::remove_dir_all(&path);
    env.directory(name)
}

/// A directory with a file, a directory and a link in it.
pub(super) fn volume(env: &Env) -> PathBuf {
    let path = fresh(env, "volume");
    fs::create_dir(path.join("inner")).expect("create");
    fs::write(path.join("file"), "content").expect("write");
    fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    chown(path.join("file"), Some(1000), Some(100)).expect("chown");
    std::os::unix::fs::symlink("file", path.join("link")).expect("symlink");
    path
}
