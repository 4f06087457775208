//! Fields of config.json that few use: what they ask for holds in the container.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::{any, ours};
use crate::bundle::Root;
use crate::{Case, Env};

/// runc 1.1, with which Debian comes, does not know all of them.
pub(super) const CASES: &[Case] = &[
    ours("fields::names", 120, names),
    ours("fields::scheduling", 240, scheduling),
    ours("fields::personality", 180, personality),
    ours("fields::propagation", 180, propagation),
    ours("fields::idmapped_mounts", 120, idmapped_mounts),
    any("fields::overlay", 120, overlay),
    any("fields::mounts_below_binds", 180, mounts_below_binds),
    ours("fields::labels_and_profiles_are_accepted", 120, labels_and_profiles),
];

fn names(env: &Env) {
    let bundle = env.bundle(Root::Debian).set("/hostname", json!("one")).set("/domainname", json!("two.example"));
    let got = env.run(&bundle.script("hostname; cat /proc/sys/kernel/domainname"));
    assert_eq!(got.ok(), "one\ntwo.example");
}

fn scheduling(env: &Env) {
    let mut bundle = env.bundle(Root::Debian).privileged();
    let policy = |scheduler: Value| {
        (
            scheduler,
            "python3 -c 'import os; print(os.sched_getscheduler(1), os.sched_getparam(1).sched_priority, os.getpriority(os.PRIO_PROCESS, 1))'",
        )
    };
    for ((scheduler, script), want) in [
        (policy(json!({ "policy": "SCHED_BATCH", "nice": 5 })), "3 0 5"),
        (policy(json!({ "policy": "SCHED_RR", "priority": 7, "flags": ["SCHED_RESET_ON_FORK"] })), "1073741826 7 0"),
    ] {
        bundle = bundle.set("/process/scheduler", scheduler).script(script);
        assert_eq!(env.run(&bundle).ok(), want);
    }
    let deadline = json!({ "policy": "SCHED_DEADLINE", "flags": ["SCHED_RESET_ON_FORK"],
        "runtime": 10_000_000, "deadline": 30_000_000, "period": 40_000_000 });
    bundle =
        bundle.set("/process/scheduler", deadline).script("chrt -p 1 | grep -o -e DEADLINE -e '[0-9]*/[0-9]*/[0-9]*'");
    assert_eq!(env.run(&bundle).ok(), "DEADLINE\n10000000/30000000/40000000");
    bundle = bundle
        .set("/process/scheduler", Value::Null)
        .set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 3 }))
        .script("ionice -p 1");
    assert_eq!(env.run(&bundle).ok(), "best-effort: prio 3");
}

fn personality(env: &Env) {
    let mut bundle = env.bundle(Root::Debian).script("uname -m");
    for (domain, want) in [("LINUX32", "i686"), ("LINUX", "x86_64")] {
        bundle = bundle.set("/linux/personality", json!({ "domain": domain }));
        assert_eq!(env.run(&bundle).ok(), want);
    }
    bundle = bundle.set("/linux/personality", json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }));
    let outcome = env.run(&bundle);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("linux.personality.flags"), "{outcome:?}");
}

fn propagation(env: &Env) {
    let source = env.directory("source");
    let bundle = env
        .bundle(Root::Debian)
        .set("/linux/rootfsPropagation", json!("rshared"))
        .bind(&source, "/mnt", &["rprivate"])
        .bind(&source, "/srv", &["rshared"]);
    let script = "for m in / /mnt /srv; do awk -v m=$m '$5 == m { print m, ($7 ~ /^shared:/ ? \"shared\" : \"private\") }' /proc/self/mountinfo; done";
    assert_eq!(env.run(&bundle.script(script)).ok(), "/ shared\n/mnt private\n/srv shared");
}

/// Files of the host's 0 are 1000's in the container, and what 1000 makes there is 0's on the host.
fn idmapped_mounts(env: &Env) {
    let source = env.directory("source");
    std::fs::write(source.join("old"), "").expect("write");
    let mut bundle = env.bundle(Root::Busybox).bind(&source, "/mnt", &[]);
    let mapping = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let last = bundle.spec["mounts"].as_array_mut().and_then(|mounts| mounts.last_mut()).expect("a mount");
    last["uidMappings"] = mapping.clone();
    last["gidMappings"] = mapping;
    let bundle = bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let outcome = env.run(&bundle.script("stat -c %u:%g /mnt/old; touch /mnt/new && stat -c %u:%g /mnt/new"));
    assert_eq!(outcome.ok(), "1000:1000\n1000:1000");
    let owner = std::fs::metadata(source.join("new")).expect("made");
    assert_eq!((owner.uid(), owner.gid()), (0, 0));
}

/// A file system of the host's, mounted until the case ends.
struct HostTmpfs(std::path::PathBuf);

impl HostTmpfs {
    fn at(path: std::path::PathBuf) -> HostTmpfs {
        std::fs::create_dir_all(&path).expect("create");
        crate::host("mount", &["-t", "tmpfs", "tmpfs", &path.to_string_lossy()]);
        HostTmpfs(path)
    }
}

impl Drop for HostTmpfs {
    fn drop(&mut self) {
        // What fails here, the census reports.
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// `bind` leaves out what is mounted below the source, `ro` with `rbind` leaves it writable, and `rro` does not.
fn mounts_below_binds(env: &Env) {
    let source = env.directory("source");
    let below = HostTmpfs::at(source.join("below"));
    let deeper = HostTmpfs::at(below.0.join("much/deeper"));
    let single = json!({ "destination": "/single", "type": "bind", "source": source, "options": ["bind"] });
    let bundle = env
        .bundle(Root::Busybox)
        .bind(&source, "/written", &[])
        .bind(&source, "/top", &["ro"])
        .bind(&source, "/all", &["rro"])
        .mount(single);
    let script = "for at in /written /top /all; do for file in a below/b below/much/deeper/c; do
        touch $at/$file 2>/dev/null && echo $at/$file && rm $at/$file; done; done; ls /single/below";
    let bundle = bundle.script(script);
    let got = env.run(&bundle);
    assert_eq!(
        got.ok(),
        "/written/a\n/written/below/b\n/written/below/much/deeper/c\n/top/below/b\n/top/below/much/deeper/c"
    );
    // The container's own copies of the mounts are gone by now; the lower one goes first.
    drop(deeper);
}

/// What the container writes is in the upper directory, and what it removes is still in the lower one.
fn overlay(env: &Env) {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| env.directory(name));
    for name in ["kept", "removed"] {
        std::fs::write(lower.join(name), name).expect("write");
    }
    let options = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)]
        .map(|(name, path)| format!("{name}={}", path.display()));
    let mount = json!({ "destination": "/mnt", "type": "overlay", "source": "overlay", "options": options });
    let bundle = env.bundle(Root::Busybox).mount(mount);
    let outcome =
        env.run(&bundle.script("cat /mnt/kept /mnt/removed; rm /mnt/removed; echo new >/mnt/new; ls /mnt | xargs"));
    assert_eq!(outcome.ok(), "keptremovedkept new");
    assert_eq!(std::fs::read_to_string(upper.join("new")).expect("written to the upper directory"), "new\n");
    assert!(lower.join("removed").exists() && !lower.join("new").exists());
}

/// docker sets a profile on each container where the host has AppArmor.
fn labels_and_profiles(env: &Env) {
    let bundle = env
        .bundle(Root::Busybox)
        .set("/process/apparmorProfile", json!("docker-default"))
        .set("/process/selinuxLabel", json!("system_u:system_r:container_t:s0:c1,c2"))
        .set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0:c1,c2"))
        .script("echo fine");
    let outcome = env.run(&bundle);
    assert_eq!((outcome.ok(), outcome.stderr.as_str()), ("fine", ""));
}
