//! The time line of a start, and what `sandbox` says about itself.

use std::process::Command;

use super::ours;
use crate::bundle::Root;
use crate::run::outcome;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    ours("trace::names_the_steps_of_a_start", 120, time_line),
    ours("trace::unwritable_file", 120, unwritable),
    ours("trace::doctor_finds_a_good_machine", 60, doctor),
    ours("trace::version_and_help", 60, version_and_help),
];

/// What must be in a trace, in this order.
const STEPS: [&str; 8] = [
    "process start",
    "VM created",
    "kernel entered",
    "agent up",
    "rootfs mounted",
    "container executed",
    "first output",
    "exit",
];

fn time_line(env: &Env) {
    let file = env.directory("trace").join("trace.json");
    let bundle = env.bundle(Root::Busybox).args(&["echo", "hello"]);
    let mut command = env.command(&bundle);
    command.env("SANDBOX_TRACE", &file);
    assert_eq!(outcome(command).ok(), "hello");
    let text = std::fs::read_to_string(&file).expect("read the trace");
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let events = trace.get("traceEvents").unwrap_or(&trace).as_array().expect("an array of events");
    let mut last = f64::MIN;
    for step in STEPS {
        let event = events
            .iter()
            .find(|event| event["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(step)))
            .unwrap_or_else(|| panic!("no '{step}' in {text}"));
        for field in ["ph", "ts", "pid", "tid"] {
            assert!(!event[field].is_null(), "'{step}' has no {field}");
        }
        let time = event["ts"].as_f64().expect("a time");
        assert!(time >= last, "'{step}' is before the step before it: {text}");
        last = time;
    }
}

fn unwritable(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    let mut command = env.command(&bundle);
    command.env("SANDBOX_TRACE", "/no/such/directory/trace.json");
    let outcome = outcome(command);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    assert!(outcome.stderr.contains("/no/such/directory/trace.json"), "{outcome:?}");
}

fn doctor(env: &Env) {
    let mut command = Command::new(&env.runtime);
    command.arg("doctor");
    let outcome = outcome(command);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    for subject in ["host kernel", "privileges", "KVM", "cgroups", "guest kernel", "guest initramfs"] {
        let good = format!("ok   {subject}: ");
        assert!(outcome.stdout.lines().any(|line| line.starts_with(&good)), "no {good:?} in {outcome:?}");
    }
    // What is missing is told, and the status says so.
    let mut command = Command::new(&env.runtime);
    command.arg("doctor").env("SANDBOX_KERNEL", "/no/such/vmlinux");
    let outcome = crate::run::outcome(command);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(
        outcome.stdout.contains("FAIL guest kernel: ") && outcome.stdout.contains("/no/such/vmlinux"),
        "{outcome:?}"
    );
}

fn version_and_help(env: &Env) {
    for arguments in [&["--version"][..], &["--help"], &["run", "--help"], &["doctor", "--help"]] {
        let mut command = Command::new(&env.runtime);
        command.args(arguments);
        let outcome = outcome(command);
        assert_eq!(outcome.code(), 0, "{arguments:?}: {outcome:?}");
        assert!(outcome.stdout.contains("sandbox") && outcome.stderr.is_empty(), "{arguments:?}: {outcome:?}");
    }
    let mut command = Command::new(&env.runtime);
    command.arg("no-such-command");
    let outcome = outcome(command);
    assert!(outcome.code() == 1 && outcome.stderr.contains("no-such-command"), "{outcome:?}");
}
