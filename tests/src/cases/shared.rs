//! Containers that share a micro-VM, beyond the network.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::lifecycle::{Created, monitor_of, wait_until};
use super::network::{beside, on_host, pair};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::world::World;
use crate::{Case, Env, host};

pub(super) const CASES: &[Case] = &[
    ours("shared::killed_keeper", 300, killed_keeper),
    any("shared::user_namespace", 300, user_namespace),
    ours("shared::mappings_of_a_user_namespace", 300, mappings),
    ours("shared::time_and_cgroup_namespaces", 240, time_and_cgroup),
    any("shared::network_of_its_own", 300, own_network),
];

/// A container that lives until it is killed.
fn living(env: &Env, bundle: Bundle) -> Created<'_> {
    let container = Created::new(env, bundle.script("echo up; exec sleep 4321"));
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("up");
    container
}

fn mapping(first: u32) -> Value {
    json!([{ "containerID": 0, "hostID": first, "size": 65536 }])
}

/// The root is its user's.
fn mapped(bundle: Bundle) -> Bundle {
    host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
    let bundle = bundle.set("/linux/uidMappings", mapping(100_000)).set("/linux/gidMappings", mapping(100_000));
    bundle.set("/linux/resources", json!({}))
}

/// As docker has it with userns-remap and `--network container:X`, or with `--pid` too; and Kubernetes in a pod with a user namespace.
fn user_namespace(env: &Env) {
    let bundle = mapped(env.bundle(Root::Busybox).namespace(json!({ "type": "user" })))
        .script("mkdir /www; echo page >/www/index.html; httpd -p 127.0.0.1:90 -h /www; echo up; exec sleep 4321");
    let first = Created::new(env, bundle);
    first.call(&["start", &first.bundle.id]).ok();
    first.wait_for_output("up");
    let script = "echo $(cat /proc/self/uid_map); id -u; wget -q -O - http://127.0.0.1:90/; ps | grep -c '[s]leep 4321'; hostname; touch /file";
    let second = mapped(beside(env, "second", &first, &["user", "network", "ipc"])).script(script);
    assert_eq!(env.run(&second).ok(), "0 100000 65536\n0\npage\n0\nbox");
    let third = mapped(beside(env, "third", &first, &["user", "network", "pid"])).script(script);
    assert_eq!(env.run(&third).ok(), "0 100000 65536\n0\npage\n1\nbox");
    for bundle in [second, third] {
        let made = std::fs::metadata(bundle.host_path("file")).expect("stat");
        assert_eq!((made.uid(), made.gid()), (100_000, 100_000), "owner on the host");
    }
    // One more process finds its way there, too.
    let fourth = Created::new(
        env,
        mapped(beside(env, "fourth", &first, &["user", "network"])).script("echo up; exec sleep 1000"),
    );
    fourth.call(&["start", &fourth.bundle.id]).ok();
    fourth.wait_for_output("up");
    assert_eq!(
        fourth.call(&["exec", &fourth.bundle.id, "sh", "-c", "id -u; ps | grep -c '[s]leep 1000'"]).ok(),
        "0\n1"
    );
}

/// They are the other's: none need be given, and no others can be.
fn mappings(env: &Env) {
    let bundle = mapped(env.bundle(Root::Busybox).namespace(json!({ "type": "user" })));
    let first = living(env, bundle);
    let without = beside(env, "without", &first, &["user"]).set("/linux/resources", json!({}));
    host("chown", &["100000:100000", &without.host_path("/").to_string_lossy()]);
    assert_eq!(env.run(&without.script("echo $(cat /proc/self/uid_map)")).ok(), "0 100000 65536");
    let others = mapped(beside(env, "others", &first, &["user"])).set("/linux/uidMappings", mapping(200_000));
    let refused = env.run(&others.script("echo never"));
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("are not those of container"), "{refused:?}");
    // The first one's root stays the host's where there is no user namespace.
    let plain = living(env, env.bundle_named(Root::Busybox, "plain"));
    let refused = env.run(&mapped(beside(env, "of-none", &plain, &["user"])).script("echo never"));
    assert!(refused.stderr.contains("has no user namespace of its own"), "{refused:?}");
}

fn time_and_cgroup(env: &Env) {
    let bundle = env.bundle(Root::Busybox).namespace(json!({ "type": "time" })).without_namespace("cgroup");
    let bundle = bundle
        .namespace(json!({ "type": "cgroup" }))
        .set("/linux/timeOffsets", json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 } }));
    let first = living(env, bundle);
    let script = "cut -d. -f1 /proc/uptime; cat /proc/self/cgroup";
    let second = beside(env, "second", &first, &["time", "cgroup"]).script(script);
    let output = env.run(&second).ok().to_owned();
    let (uptime, cgroup) = output.split_once('\n').expect("two lines");
    assert!((1_000_000..1_010_000).contains(&uptime.parse::<u64>().expect("a number")), "{output}");
    // Its own cgroup is beside the one that the namespace shows.
    assert!(cgroup.starts_with("0::/../"), "{output}");
    let refused = env.run(&beside(env, "third", &first, &["mount"]).script("echo never"));
    assert!(refused.stderr.contains("].path in config.json is not supported"), "{refused:?}");
}

/// `docker run --pid container:X` and nothing else: the network is its own, in the other's micro-VM.
fn own_network(env: &Env) {
    let world = World::new();
    let first = living(env, env.bundle(Root::Busybox));
    let links = || first.call(&["exec", &first.bundle.id, "ls", "/sys/class/net"]).ok().trim().to_owned();
    for name in ["ends", "is-killed", "comes-after"] {
        let script = "ip -4 -o addr show eth0 | grep -o 10.90.0.2/24; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered; exec sleep 1000";
        let second = Created::new(env, beside(env, name, &first, &["pid"]).script(script));
        on_host(second.pid.as_raw_nonzero().get().unsigned_abs(), &pair(&world, "w0", "eth0", "10.90.0"));
        second.call(&["start", &second.bundle.id]).ok();
        second.wait_for_output("answered");
        assert!(second.output().starts_with("10.90.0.2/24\n"), "{}", second.output());
        assert_eq!(links(), "lo", "{name}");
        if name == "is-killed" {
            kill_process(second.pid, Signal::KILL).expect("kill");
            second.wait();
        }
        second.call(&["delete", "--force", &second.bundle.id]).ok();
        // With the namespace its interface is gone, and so is the other end: whoever comes finds all of it free.
        wait_until("the end of the pair", || !world.run(&["ip", "-o", "link"]).contains("w0"));
        assert_eq!(links(), "lo", "{name}");
    }
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
