//! What a network namespace holds beside the usual: where IPv6 is switched off, other kinds of addresses and routes, settings of interfaces,
//! and interfaces that take each other's place.

use serde_json::{Value, json};

use super::any;
use super::lifecycle::{Created, wait_until};
use super::network::{on_host, pair};
use crate::bundle::{Bundle, Root};
use crate::world::World;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("addresses::ipv6_switched_off", 300, ipv6_switched_off),
    any("addresses::less_usual", 240, less_usual),
    any("addresses::settings_of_interfaces", 240, settings_of_interfaces),
    any("addresses::taken_over_at_once", 240, taken_over_at_once),
];

/// A world, and a namespace with `eth0` on its network.
fn places() -> (World, World) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "eth0", "10.90.0"));
    (world, place)
}

fn ip(world: &World, commands: &[&str]) {
    for command in commands {
        world.run(&[&["ip"], command.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
}

fn in_place(env: &Env, name: &str, place: &World) -> Bundle {
    let path: Value = json!({ "type": "network", "path": place.path() });
    env.bundle_named(Root::Busybox, name).without_namespace("network").namespace(path)
}

/// As docker leaves it: off for all, and on again where a network has addresses of IPv6.
fn ipv6_switched_off(env: &Env) {
    let (world, place) = places();
    let switch = |name: &str, off: u8| {
        let command = format!("echo {off} >/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        place.run(&["sh", "-c", &command]);
    };
    let shown = |bundle: Bundle| {
        let script = "cd /proc/sys/net/ipv6/conf; cat all/disable_ipv6 default/disable_ipv6 lo/disable_ipv6 eth0/disable_ipv6
            grep -c -e ' lo$' /proc/net/if_inet6; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo four; ping -c 1 -W 20 fd00:90::1 >/dev/null 2>&1 && echo six; true";
        env.run(&bundle.script(script)).ok().replace('\n', " ")
    };
    switch("all", 1);
    assert_eq!(shown(in_place(env, "off", &place)), "1 1 1 1 0 four");
    switch("lo", 0);
    switch("eth0", 0);
    ip(&world, &["addr add fd00:90::1/64 dev w0 nodad"]);
    ip(&place, &["addr add fd00:90::2/64 dev eth0 nodad"]);
    assert_eq!(shown(in_place(env, "on", &place)), "1 1 0 0 1 four six");
    // Whoever wants it says so.
    switch("all", 1);
    let wanted = in_place(env, "wanted", &place).set("/linux/sysctl", json!({ "net.ipv6.conf.all.disable_ipv6": "0" }));
    assert_eq!(shown(wanted), "0 0 0 0 1 four");
    assert_eq!(place.run(&["cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"]).trim(), "0");
}

fn less_usual(env: &Env) {
    let (world, place) = places();
    ip(
        &world,
        &[
            "addr add fd00:90::1/64 dev w0 nodad",
            "addr add 10.94.0.1 peer 10.94.0.2/32 dev w0",
            "addr add 10.99.0.1/32 dev w0",
        ],
    );
    ip(
        &place,
        &[
            "link set lo up",
            "addr add fd00:90::2/64 dev eth0 nodad",
            "addr add fe80::99/64 dev eth0 nodad",
            // Of several the kernel prefers the newest.
            "addr add fd00:90::3/64 dev eth0 nodad",
            "addr add fd00:90::4/64 dev eth0 nodad",
            "addr add 10.94.0.2 peer 10.94.0.1/32 dev eth0",
            "route add 10.99.0.0/16 via inet6 fd00:90::1 dev eth0",
            // An address that only `lo` has, and routes for some packets only.
            "addr add 10.93.0.1/32 dev lo",
            "route add 10.98.0.0/16 via 10.90.0.1 src 10.93.0.1",
            "route add 10.97.0.0/16 tos 0x10 via 10.90.0.77",
        ],
    );
    let bundle = in_place(env, "box", &place).script(
        "ip -o addr show eth0 | grep -o -e fe80::99/64 -e fd00:90::[34]/64; ip route | grep -o 10.98.0.0/16; ping -c 1 -W 20 10.94.0.1 >/dev/null && echo pair
        ping -c 1 -W 20 10.99.0.1 >/dev/null && echo family",
    );
    assert_eq!(env.run(&bundle).ok(), "fd00:90::4/64\nfd00:90::3/64\nfe80::99/64\n10.98.0.0/16\npair\nfamily");
}

/// The guest has the interface only after its other settings.
fn settings_of_interfaces(env: &Env) {
    let (_world, place) = places();
    place.run(&[
        "sh",
        "-c",
        "echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_notify; echo 0 >/proc/sys/net/ipv6/conf/eth0/autoconf",
    ]);
    let sysctls =
        json!({ "net.ipv4.conf.eth0.rp_filter": "2", "net/ipv6/conf/eth0/accept_ra": "0", "net.ipv4.ip_forward": "1" });
    let bundle = in_place(env, "box", &place)
        .set("/linux/sysctl", sysctls)
        .script("cd /proc/sys/net; cat ipv4/conf/eth0/rp_filter ipv6/conf/eth0/accept_ra ipv4/ip_forward ipv4/conf/eth0/arp_notify ipv6/conf/eth0/autoconf");
    assert_eq!(env.run(&bundle).ok(), "2\n0\n1\n1\n0");
    // One that is not there.
    let bundle = in_place(env, "none", &place)
        .set("/linux/sysctl", json!({ "net.ipv4.conf.eth7.rp_filter": "2" }))
        .script("echo runs");
    let refused = env.run(&bundle);
    assert_eq!((refused.code(), refused.stdout.as_str()), (1, ""), "{refused:?}");
    assert!(refused.stderr.contains("eth7") && refused.stderr.contains("no such file or directory"), "{refused:?}");
}

/// Another interface comes in the place of one, with its name and its address of the link, before anybody has looked.
fn taken_over_at_once(env: &Env) {
    let world = World::new();
    let created = Created::new(env, env.bundle(Root::Busybox).script("echo running; exec sleep 1000"));
    let (id, pid) = (created.bundle.id.as_str(), created.pid.as_raw_nonzero().get().unsigned_abs());
    on_host(pid, &pair(&world, "w0", "eth0", "10.90.0"));
    created.call(&["start", id]).ok();
    created.wait_for_output("running");
    let answered = || created.call(&["exec", id, "ping", "-c", "1", "-W", "5", "10.90.0.1"]).stdout;
    wait_until("an answer", || answered().contains("1 packets received"));
    let swap = format!(
        "set -e
        nsenter -t {world} -n ip link add w1 type veth peer name eth1 netns $pid
        nsenter -t {world} -n ip link set w1 up
        nsenter -t $pid -n ip -batch - <<END
        link set eth1 address 02:42:0a:5a:00:02
        link del eth0
        link set eth1 name eth0
        addr add 10.90.0.2/24 brd 10.90.0.255 dev eth0
        link set eth0 up
END
        nsenter -t {world} -n ip addr add 10.90.0.1/24 dev w1",
        world = world.pid()
    );
    on_host(pid, &swap);
    wait_until("an answer by the other one", || answered().contains("1 packets received"));
}
