//! Exit statuses, and deaths by signal.

use super::any;
use crate::bundle::Root;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("status::of_the_command", 240, of_the_command),
    any("status::every_one_in_the_container", 120, every_one_in_the_container),
    any("status::death_by_signal", 180, death_by_signal),
    any("status::first_process_crashes", 120, first_process_crashes),
    any("status::children_end_with_the_first_process", 120, children_end),
    any("status::orphans_are_reaped", 120, orphans_are_reaped),
];

/// The runtime's own status is the container's.
fn of_the_command(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    let mut bundle = bundle;
    for status in [0, 1, 2, 126, 127, 128, 255] {
        bundle = bundle.script(&format!("echo out; echo err >&2; exit {status}"));
        let outcome = env.run(&bundle);
        assert_eq!(outcome.code(), status, "{outcome:?}");
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    }
}

fn every_one_in_the_container(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script(
        "i=0; while [ $i -le 255 ]; do sh -c \"exit $i\"; [ $? = $i ] || echo wrong $i; i=$((i+1)); done; echo end $i",
    );
    assert_eq!(env.run(&bundle).ok(), "end 256");
}

/// Without a pid namespace of its own the container's first process can kill itself.
fn death_by_signal(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox).without_namespace("pid");
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        bundle = bundle.script(&format!("echo dying; kill -{signal} $$; sleep 5; echo alive"));
        let outcome = env.run(&bundle);
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (status, "dying\n"), "{signal}: {outcome:?}");
    }
}

/// A fault kills even the first process of a pid namespace.
fn first_process_crashes(env: &Env) {
    let bundle = env.bundle(Root::Busybox).probe(env).args(&["/probe", "segv"]);
    let outcome = env.run(&bundle);
    assert_eq!(outcome.code(), 139, "{outcome:?}");
}

/// The container ends with its first process: others hold neither it nor its output.
fn children_end(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("sleep 1000 & (sleep 1000 >/dev/null 2>&1 &) ; echo started; exit 5");
    let outcome = env.run(&bundle);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (5, "started\n"), "{outcome:?}");
}

fn orphans_are_reaped(env: &Env) {
    let bundle = env
        .bundle(Root::Busybox)
        .without_namespace("pid")
        .script("i=0; while [ $i -lt 30 ]; do (sleep 0.1 &); i=$((i+1)); done; sleep 2; ps -o stat,comm >/seen && grep -c '^Z.*sleep' /seen || true");
    assert_eq!(env.run(&bundle).ok(), "0");
}
