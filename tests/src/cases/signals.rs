//! Signals that the runtime gets are for the container.

use std::time::Duration;

use rustix::process::Signal;

use super::any;
use crate::bundle::Root;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("signals::are_forwarded", 180, are_forwarded),
    any("signals::end_the_container", 120, end_the_container),
    any("signals::while_it_starts", 180, while_it_starts),
];

fn are_forwarded(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script(
        "for name in INT TERM HUP QUIT USR1 WINCH; do trap \"echo got $name\" $name; done
         trap 'echo got USR2; exit 17' USR2
         echo ready; while :; do sleep 0.1; done",
    );
    let mut running = env.start(&bundle);
    running.expect("ready");
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        running.signal(signal);
        running.expect(&format!("got {name}"));
    }
    assert_eq!(running.finish().code(), 17);
}

/// A signal that the container does not handle kills it, and the status says so.
fn end_the_container(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox).without_namespace("pid");
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        bundle = bundle.script("echo ready; exec sleep 1000");
        let mut running = env.start(&bundle);
        running.expect("ready");
        running.signal(signal);
        assert_eq!(running.finish().code(), status, "{signal:?}");
    }
}

/// An impatient SIGTERM, before there is anything to forward it to, ends the start or the container, and never hangs.
fn while_it_starts(env: &Env) {
    let bundle = env.bundle(Root::Busybox).without_namespace("pid").script("exec sleep 1000");
    for delay in [0, 300, 1500] {
        let mut running = env.start(&bundle);
        std::thread::sleep(Duration::from_millis(delay));
        running.signal(Signal::TERM);
        // runc installs its handlers late and can miss one: as people do, send another.
        let mut status = running.ends_within(Duration::from_secs(20));
        if status.is_none() && env.is_runc() {
            running.signal(Signal::TERM);
            status = running.ends_within(Duration::from_secs(10));
        }
        let status = status.unwrap_or_else(|| panic!("SIGTERM after {delay} ms had no effect"));
        assert!(!status.success(), "{status:?} after {delay} ms");
        if env.is_runc() && status.code().is_none() {
            // Killed before it could clean up.
            let _ = std::process::Command::new(&env.runtime).args(["delete", "--force", &bundle.id]).status();
        }
    }
}
