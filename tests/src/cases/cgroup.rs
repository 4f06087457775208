//! The host's cgroup of a container, where its callers look: containerd's shim, conmon, kubelet.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::lifecycle::{Created, call};
use super::{any, ours};
use crate::bundle::Root;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("cgroup::cpu_time_is_limited_from_start_on", 240, cpu_time),
    any("cgroup::out_of_memory_is_counted", 300, out_of_memory),
    any("cgroup::frozen_one_is_refused", 120, frozen),
    any("cgroup::shared_one_stays", 180, shared),
    ours("cgroup::is_its_users_in_a_user_namespace", 120, owner),
];

const DEVICES: &str = r#"[{ "allow": false, "access": "rwm" }]"#;

/// Its directory in v2, or in v1 that of a controller; and whether it is v2.
fn directory(container: &Created<'_>, controller: &str) -> (PathBuf, bool) {
    let own = fs::read_to_string(format!("/proc/{}/cgroup", container.pid.as_raw_nonzero())).expect("read");
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut lines = own.lines().map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>());
    let v1 = lines.find(|line| line[0].split(',').any(|name| name == controller));
    match (v1, own.strip_prefix("0::/")) {
        (Some(line), _) => (root.join(controller).join(line[1].trim_start_matches('/')), false),
        (None, Some(inside)) => (root.join(inside.trim_end()), true),
        (None, None) => panic!("no {controller} in {own:?}"),
    }
}

/// With this quota on the host a guest would take minutes to boot.
fn cpu_time(env: &Env) {
    let devices: serde_json::Value = serde_json::from_str(DEVICES).expect("JSON");
    let limits = json!({ "devices": devices, "cpu": { "quota": 5000, "period": 100_000 } });
    let begin = Instant::now();
    let bundle = env.bundle(Root::Busybox).set("/linux/resources", limits).set("/process/oomScoreAdj", json!(7));
    let container = Created::new(env, bundle.args(&["true"]));
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", container.pid.as_raw_nonzero()));
    assert_eq!(score.expect("read"), "7\n", "the host's kernel chooses among containers as with runc");
    assert!(begin.elapsed() < Duration::from_secs(100), "create took {:?}", begin.elapsed());
    let (directory, unified) = directory(&container, "cpu");
    let (file, limit, none) =
        if unified { ("cpu.max", "5000 100000\n", "max") } else { ("cpu.cfs_quota_us", "5000\n", "-1") };
    assert_eq!(fs::read_to_string(directory.join(file)).expect("read"), limit);
    // So that the container's own part does not take minutes either.
    fs::write(directory.join(file), "50000").expect("write");
    container.call(&["start", &container.bundle.id]).ok();
    assert_eq!(container.wait().exit_status(), Some(0));
    let after = fs::read_to_string(directory.join(file)).expect("read");
    assert!(env.is_runc() || after.starts_with(none), "{after:?}");
}

fn out_of_memory(env: &Env) {
    let devices: serde_json::Value = serde_json::from_str(DEVICES).expect("JSON");
    let memory = json!({ "limit": 50_331_648, "swap": 50_331_648 });
    let bundle = env.bundle(Root::Busybox).probe(env).script(
        "/probe touch-memory 400; echo first $?; until [ -e /go ]; do sleep 0.1; done; /probe touch-memory 400; exit $?",
    );
    // As conmon 2.1.6 has it; whoever inherits that is never killed.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let bundle = if env.is_runc() { bundle.set("/process/oomScoreAdj", json!(0)) } else { bundle };
    let container = Created::new(env, bundle.set("/linux/resources", json!({ "devices": devices, "memory": memory })));
    let (directory, unified) = directory(&container, "memory");
    let kills = || {
        let file = if unified { "memory.events" } else { "memory.oom_control" };
        let events = fs::read_to_string(directory.join(file)).expect("read");
        events.lines().find_map(|line| line.strip_prefix("oom_kill ").map(str::to_owned)).expect("a count")
    };
    assert_eq!(kills(), "0");
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("first 137\n");
    // In v1 sandbox has one for all at the end.
    let once = !unified && !env.is_runc();
    super::lifecycle::wait_until("count of the first kill", || once || kills() == "1");
    // The last one is counted before the process that callers wait for ends.
    container.call(&["exec", &container.bundle.id, "touch", "/go"]).ok();
    assert_eq!(container.wait().exit_status(), Some(137));
    assert_eq!(kills(), if once { "1" } else { "2" });
    let beside = directory.with_file_name(format!("{}.oom", directory.file_name().expect("a name").to_string_lossy()));
    assert!(!beside.exists());
}

/// A cgroup of the host that a test made, frozen.
struct Frozen(PathBuf, &'static str, &'static str);

impl Frozen {
    fn new(name: &str) -> Frozen {
        let root = PathBuf::from("/sys/fs/cgroup");
        let frozen = match root.join("cgroup.controllers").exists() {
            true => Frozen(root.join(name), "cgroup.freeze", "0"),
            false => Frozen(root.join("freezer").join(name), "freezer.state", "THAWED"),
        };
        fs::create_dir(&frozen.0).expect("make a cgroup");
        let word = if frozen.2 == "0" { "1" } else { "FROZEN" };
        fs::write(frozen.0.join(frozen.1), word).expect("freeze");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // What fails here, the census reports.
        let _ = fs::write(self.0.join(self.1), self.2);
        let _ = fs::remove_dir(&self.0);
    }
}

/// A process that is put into it would wait for ever.
fn frozen(env: &Env) {
    let cgroup = Frozen::new("itest-frozen");
    let bundle = env.bundle(Root::Busybox).set("/linux/cgroupsPath", json!("/itest-frozen")).args(&["true"]);
    let got = env.run(&bundle);
    assert_eq!(got.code(), 1, "{got:?}");
    assert!(got.stderr.contains("container's cgroup unexpectedly frozen"), "{got:?}");
    assert!(cgroup.0.exists(), "it was there before the container");
}

/// The first container to be deleted leaves it to the other.
fn shared(env: &Env) {
    let bundle = |name: &str| {
        env.bundle_named(Root::Busybox, name).set("/linux/cgroupsPath", json!("/itest-shared")).args(&["sleep", "1000"])
    };
    let (first, second) = (Created::new(env, bundle("first")), Created::new(env, bundle("second")));
    let (directory, _) = directory(&second, "memory");
    let log = fs::read_to_string(&second.log).expect("read");
    assert!(log.contains("container's cgroup is not empty"), "{log:?}");
    let begin = Instant::now();
    call(env, &["delete", "--force", &first.bundle.id]).ok();
    // runc tries to remove it for a while.
    assert!(env.is_runc() || begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!(directory.exists());
    call(env, &["start", &second.bundle.id]).ok();
    call(env, &["delete", "--force", &second.bundle.id]).ok();
    assert!(!directory.exists());
}

/// "Cgroup ownership" of the specification. runc has it with systemd only.
fn owner(env: &Env) {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let mut bundle = env.bundle(Root::Busybox);
    crate::host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
    for mount in bundle.spec["mounts"].as_array_mut().expect("mounts") {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
        }
    }
    let bundle = bundle
        .namespace(json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
        .set("/linux/resources", json!({}))
        .script("cd /sys/fs/cgroup; stat -c %u . cgroup.procs pids.max; mkdir below && rmdir below && echo made");
    assert_eq!(env.run(&bundle).ok(), "0\n0\n65534\nmade");
}
