//! The process: limits, directory, environment, scheduling, terminal, and how commands end.

use serde_json::{Value, json};

use super::{Variant, variant};
use crate::bundle::Bundle;

pub(super) const BUNDLES: &[Variant] = &[
    variant("limits-all", |_, bundle| {
        let names =
            "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME";
        let limit = |(index, name): (usize, &str)| {
            let (soft, hard) = match name {
                "NICE" | "RTPRIO" => (index, index + 1),
                _ => (1_000_000_000 + index, 2_000_000_000 + index),
            };
            json!({ "type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard })
        };
        let limits: Value =
            names.split_whitespace().enumerate().map(limit).filter(|limit| limit["type"] != "RLIMIT_NOFILE").collect();
        bundle.set("/process/rlimits", limits)
    }),
    variant("limits-unlimited", |_, bundle| {
        bundle.set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CORE", "soft": u64::MAX, "hard": u64::MAX }, { "type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": u64::MAX }]),
        )
    }),
    variant("limits-twice", |_, bundle| {
        let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 100 });
        bundle.set("/process/rlimits", json!([limit, limit]))
    }),
    variant("directory", |_, bundle| bundle.set("/process/cwd", json!("/root/../tmp/."))),
    variant("directory-missing", |_, bundle| bundle.set("/process/cwd", json!("/new/deep/directory"))),
    variant("directory-missing-user", |_, bundle| {
        bundle.set("/process/cwd", json!("/new/deep")).set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    variant("directory-is-a-file", |_, bundle| bundle.set("/process/cwd", json!("/etc/passwd"))),
    variant("environment-odd", |_, bundle| {
        bundle.set(
            "/process/env",
            json!([
                "PATH=/bin",
                "EMPTY=",
                "SPACES= a b ",
                "UNICODE=ä\u{1f980}",
                "EQUALS=a=b=",
                "LINES=a\nb",
                "TWICE=1",
                "TWICE=2",
                "=nameless",
                format!("LONG={}", "x".repeat(100_000))
            ]),
        )
    }),
    variant("environment-twice", |_, bundle| {
        bundle.set("/process/env", json!(["PATH=/no", "TWICE=1", "PATH=/bin", "HOME=/a", "TWICE=2", "HOME="]))
    }),
    variant("environment-none", |_, bundle| bundle.set("/process/env", json!([]))),
    variant("environment-without-equals", |_, bundle| bundle.set("/process/env", json!(["PATH=/bin", "NOTHING"]))),
    variant("environment-home", |_, bundle| {
        bundle
            .set("/process/env", json!(["HOME=", "PATH=/bin"]))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    variant("oom-score", |_, bundle| bundle.set("/process/oomScoreAdj", json!(-500))),
    variant("terminal", |_, bundle| bundle.set("/process/terminal", json!(true))),
    variant("terminal-size-user", |_, bundle| {
        bundle
            .set("/process/terminal", json!(true))
            .set("/process/consoleSize", json!({ "height": 10, "width": 20 }))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
    }),
    Variant {
        name: "scheduler",
        make: |_, bundle| bundle.set("/process/scheduler", json!({ "policy": "SCHED_BATCH", "nice": 5 })),
        instead: &[("scheduler.policy", "3"), ("scheduler.nice", "5")],
    },
    Variant {
        name: "io-priority",
        make: |_, bundle| bundle.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 })),
        instead: &[("scheduler.io", "class 2 level 6")],
    },
    Variant {
        name: "personality",
        make: |_, bundle| bundle.set("/linux/personality", json!({ "domain": "LINUX32" })),
        instead: &[("personality", "8"), ("name.machine", "i686"), ("call.personality", "allowed")],
    },
];

pub(super) const COMMANDS: &[Variant] = &[
    variant("arguments-odd", |_, bundle| {
        bundle.args(&["/bin/probe", "see", "", " two words ", "'\"$HOME`\\", "line\nbreak", "ä\u{1f980}", ""])
    }),
    variant("argument-long", |_, bundle| {
        let long = "y".repeat(120_000);
        bundle.args(&["/bin/busybox", "sh", "-c", "echo ${#1}", "sh", &long])
    }),
    variant("argument-too-long", |_, bundle| {
        let long = "y".repeat(140_000);
        bundle.args(&["/bin/busybox", "sh", "-c", "echo ${#1}", "sh", &long])
    }),
    variant("found-in-path", |_, bundle| bundle.args(&["probe", "see"])),
    variant("found-relative", |_, bundle| bundle.set("/process/cwd", json!("/bin")).args(&["./probe", "see"])),
    variant("shell-status", |_, bundle| {
        bundle.args(&[
            "sh",
            "-c",
            "cat /proc/self/status | grep -e ^Sig -e ^Shd; cat /proc/1/stat | cut -d' ' -f 4-8; exit 77",
        ])
    }),
    variant("not-found", |_, bundle| bundle.args(&["no-such-command"])),
    variant("not-found-absolute", |_, bundle| bundle.args(&["/no/such/command"])),
    variant("not-executable", |_, bundle| bundle.args(&["/etc/passwd"])),
    variant("a-directory", |_, bundle| bundle.args(&["/etc"])),
    variant("not-a-program", |_, bundle| script(bundle, "not a program\n")),
    variant("script-without-interpreter", |_, bundle| script(bundle, "#!/no/interpreter\n")),
    variant("script", |_, bundle| script(bundle, "#!/bin/sh\necho ran\n")),
    variant("killed", |_, bundle| bundle.args(&["sh", "-c", "sh -c 'kill -9 $$'; echo $?; /bin/probe segv"])),
    variant("orphans", |_, bundle| bundle.args(&["sh", "-c", "sleep 1000 & (sleep 1001 &); exit 3"])),
];

/// With an executable file of this content as the command.
fn script(bundle: Bundle, content: &str) -> Bundle {
    use std::os::unix::fs::PermissionsExt;
    let path = bundle.host_path("/bin/script");
    std::fs::write(&path, content).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle.args(&["/bin/script"])
}
