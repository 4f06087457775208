//! The host's cgroup of a container, where its callers look: containerd's shim, conmon, kubelet.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::any;
use super::lifecycle::Created;
use crate::bundle::Root;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("cgroup::cpu_time_is_limited_from_start_on", 240, cpu_time),
    any("cgroup::out_of_memory_is_counted", 300, out_of_memory),
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
    let container = Created::new(env, env.bundle(Root::Busybox).set("/linux/resources", limits).args(&["true"]));
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
