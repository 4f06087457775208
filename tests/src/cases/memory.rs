//! Memory that a micro-VM gets when its container uses it, and gives back.

use std::fs;
use std::time::Instant;

use serde_json::json;

use super::lifecycle::{Created, monitor_of, wait_until};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::{Outcome, outcome};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("memory::grows_without_a_limit", 600, anonymous),
    any("memory::of_tmpfs_grows", 600, tmpfs),
    any("memory::at_once_and_by_several", 900, several),
    any("memory::by_a_raised_limit", 900, raised),
    ours("memory::ends_at_the_configured_maximum", 600, maximum),
    ours("memory::of_a_given_size_stays", 300, given),
    ours("memory::has_room_for_the_limit", 600, room),
    ours("memory::is_given_back", 900, given_back),
];

fn touching(env: &Env, mib: u32) -> Bundle {
    env.bundle(Root::Busybox).probe(env).args(&["/probe", "touch-memory", &mib.to_string()])
}

/// More than a micro-VM has at its start, a MiB after the other as fast as may be.
fn anonymous(env: &Env) {
    assert_eq!(env.run(&touching(env, 800)).ok(), "touched 800 MiB");
}

/// Files in memory count, and so does what one write(2) takes.
fn tmpfs(env: &Env) {
    let big = json!({ "destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": ["size=900m"] });
    let script = "dd if=/dev/zero of=/big/x bs=100M count=7 2>/dev/null; stat -c %s /big/x";
    assert_eq!(env.run(&env.bundle(Root::Busybox).mount(big).script(script)).ok(), "734003200");
}

/// A program may ask for all of it at once, and several for theirs at the same time. What they read from files meanwhile is none of it.
fn several(env: &Env) {
    let script = "exec 2>&1; python3 -c 'x = bytearray(700 << 20); x[::4096] = b\"1\" * len(x[::4096]); print(len(x))'
        for i in 1 2 3; do /probe touch-memory 300 & done; cat /usr/bin/* >/dev/null; wait; echo done";
    let got = env.run(&env.bundle(Root::Debian).probe(env).script(script));
    let mut lines: Vec<_> = got.ok().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["734003200", "done", "touched 300 MiB", "touched 300 MiB", "touched 300 MiB"]);
}

fn limited(env: &Env, limit: u64) -> Bundle {
    let devices = json!([{ "allow": false, "access": "rwm" }]);
    env.bundle(Root::Busybox)
        .probe(env)
        .set("/linux/resources", json!({ "devices": devices, "memory": { "limit": limit, "swap": limit } }))
}

/// `update` gives a container more than its micro-VM was started with, and the new limit holds.
fn raised(env: &Env) {
    let container = living(env, limited(env, 100 << 20));
    let touch = |mib: &str| -> Outcome {
        let inner = format!("/probe touch-memory {mib}; echo status $?");
        container.call(&["exec", &container.bundle.id, "sh", "-c", &inner])
    };
    assert_eq!(touch("300").ok(), "status 137");
    container.call(&["update", "--memory", "943718400", "--memory-swap", "943718400", &container.bundle.id]).ok();
    assert_eq!(touch("700").ok(), "touched 700 MiB\nstatus 0");
    assert_eq!(touch("1200").ok(), "status 137");
    // Back again: what was used is given back later, and the container goes on.
    container.call(&["update", "--memory", "104857600", "--memory-swap", "104857600", &container.bundle.id]).ok();
    assert_eq!(touch("50").ok(), "touched 50 MiB\nstatus 0");
    assert_eq!(touch("300").ok(), "status 137");
    // And again, higher: that the guest has met its end before does not count.
    container.call(&["update", "--memory", "1258291200", "--memory-swap", "1258291200", &container.bundle.id]).ok();
    assert_eq!(touch("1000").ok(), "touched 1000 MiB\nstatus 0");
    assert_eq!(touch("1500").ok(), "status 137");
}

/// Where there is no more, the guest's kernel kills as it did before.
fn maximum(env: &Env) {
    let bundle = touching(env, 2000);
    let run = |bundle: &Bundle| {
        let mut command = env.command(bundle);
        let settings = "[defaults]\nmemory_mib = 256\nmemory_max_mib = 640\n";
        command.env("SANDBOX_CONFIG", env.file("config.toml", settings));
        outcome(command)
    };
    assert_eq!(run(&bundle).code(), 137);
    assert_eq!(run(&touching(env, 450)).ok(), "touched 450 MiB");
    let script = "/probe touch-memory 2000; echo status $?; /probe touch-memory 450";
    let bundle = env.bundle(Root::Busybox).probe(env).script(script);
    assert_eq!(run(&bundle).ok(), "status 137\ntouched 450 MiB");
}

fn given(env: &Env) {
    let size = json!({ "io.sandbox.memory_mib": "256" });
    let bundle = |mib| touching(env, mib).set("/annotations", size.clone());
    assert_eq!(env.run(&bundle(100)).ok(), "touched 100 MiB");
    assert_eq!(env.run(&bundle(600)).code(), 137);
}

/// What the guest's kernel keeps of each page, and keeps free, is not taken from the container. Memory that is not used costs the host
/// nothing, so that limits can be large.
fn room(env: &Env) {
    let sums = r#"$2 == "free" { free += $3 } $1 == "min" { kept += $2 }
        $1 == "protection:" { gsub(/[(),]/, ""); kept += $NF } END { print int((free - kept) / 256) }"#;
    for limit in [128, 512, 1024, 6144] {
        let bundle = limited(env, limit << 20).script(&format!("awk '{sums}' /proc/zoneinfo"));
        let free: u64 = env.run(&bundle).ok().trim().parse().expect("a number");
        println!("limit {limit} MiB: {free} MiB can be had");
        // What the shell has used already is in its files' pages and in lists of each CPU.
        assert!(free + 16 >= limit, "{free} of {limit} MiB");
    }
}

/// What the process has in memory (`VmRSS:`), or had at most (`VmHWM:`), in MiB.
fn memory_of(process: i32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("the line");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

/// A container that lives for longer than what it has used is smaller afterwards.
fn given_back(env: &Env) {
    let container = living(env, env.bundle(Root::Busybox).probe(env));
    let monitor = monitor_of(container.pid);
    let resident = || memory_of(monitor, "VmRSS:");
    let before = resident();
    container.call(&["exec", &container.bundle.id, "/probe", "touch-memory", "700"]).ok();
    let begin = Instant::now();
    wait_until("memory back on the host", || resident() < before + 200);
    let most = memory_of(monitor, "VmHWM:");
    println!("{before} MiB before, {most} at most, {} after {:?}", resident(), begin.elapsed());
    assert!(most > before + 500, "{most} MiB at most, {before} before: nothing was taken that could be given back");
    // It can be had again.
    let again = container.call(&["exec", &container.bundle.id, "/probe", "touch-memory", "700"]);
    assert_eq!(again.ok(), "touched 700 MiB");
}

/// A container that lives until it is killed.
fn living(env: &Env, bundle: Bundle) -> Created<'_> {
    let container = Created::new(env, bundle.script("echo up; exec sleep 4321"));
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("up");
    container
}
