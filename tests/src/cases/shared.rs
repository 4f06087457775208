//! Containers that share a micro-VM, beyond the network.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use super::lifecycle::{Created, monitor_of, wait_until};
use super::network::beside;
use super::ours;
use crate::bundle::{Bundle, Root};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[ours("shared::killed_keeper", 300, killed_keeper)];

/// A container that lives until it is killed.
fn living(env: &Env, bundle: Bundle) -> Created<'_> {
    let container = Created::new(env, bundle.script("echo up; exec sleep 4321"));
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("up");
    container
}

/// Whatever of a joined container's processes on the host is killed, neither the container nor its files stay in the other's micro-VM.
fn killed_keeper(env: &Env) {
    let first = living(env, env.bundle(Root::Busybox));
    let share = PathBuf::from(format!("/proc/{}/root/share/joined", monitor_of(first.pid)));
    let sleepers = || first.call(&["exec", &first.bundle.id, "ps"]).ok().matches("sleep 4321").count();
    let kill = |pid: Pid, signal| kill_process(pid, signal).expect("kill");
    for victims in ["keeper", "proxy", "both"] {
        let second = living(env, beside(env, victims, &first, &["pid"]));
        let keeper = Pid::from_raw(monitor_of(second.pid)).expect("a pid");
        assert!(share.join(&second.bundle.id).join("rootfs").is_dir() && sleepers() == 2, "{victims}");
        match victims {
            "keeper" => kill(keeper, Signal::KILL),
            "proxy" => kill(second.pid, Signal::KILL),
            _ => {
                // It is to see nothing of the other's end.
                kill(second.pid, Signal::STOP);
                kill(keeper, Signal::KILL);
                kill(second.pid, Signal::KILL);
            }
        }
        let status = second.wait();
        if victims == "keeper" {
            assert_eq!(status.exit_status(), Some(255), "{status:?}");
            let shown = second.call(&["state", &second.bundle.id]).ok().to_owned();
            assert!(shown.contains("the keeper of container") && shown.contains("was killed (signal 9)"), "{shown}");
        }
        if victims != "both" {
            wait_until("the files to leave", || !share.exists());
        }
        second.call(&["delete", "--force", &second.bundle.id]).ok();
        assert!(!share.exists() && sleepers() == 1, "{victims}");
    }
}
