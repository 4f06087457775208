//! A container has the network of its namespace on the host, whoever sets it up and whenever.

use std::path::Path;

use serde_json::{Value, json};

use super::lifecycle::{Created, wait_until};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::world::{Server, World};
use crate::{Case, Env, pattern};

pub(super) const CASES: &[Case] = &[
    any("network::set_up_by_a_hook", 180, by_hook),
    any("network::set_up_before_start", 240, before_start),
    any("network::interfaces_come_and_go", 300, come_and_go),
    any("network::namespace_by_path", 240, by_path),
    any("network::subnet_by_gateway", 240, subnet_by_gateway),
    any("network::multicast_groups", 240, multicast_groups),
    any("network::ipvlan_layer_3", 240, ipvlan_layer_3),
    ours("network::ipvlan_refused", 120, ipvlan_refused),
    any("network::names", 240, names),
    any("network::names_of_elsewhere", 240, names_of_elsewhere),
    any("network::many_bytes", 300, many_bytes),
    ours("network::devices_move", 180, devices_move),
    any("network::shared_namespaces", 300, shared_namespaces),
    any("network::made_at_once", 300, made_at_once),
];

const FILE_BYTES: usize = 3 << 20;

/// Commands for a shell on the host: a pair of interfaces, `outer` in the world, `inner` in the namespace of process `$pid`.
pub(super) fn pair(world: &World, outer: &str, inner: &str, subnet: &str) -> String {
    let world = world.pid();
    format!(
        "set -e
        n() {{ nsenter -t \"$1\" -n ip ${{2}}; }}
        n {world} 'link add {outer} type veth peer name {inner} netns '\"$pid\"
        n {world} 'addr add {subnet}.1/24 dev {outer}'; n {world} 'link set {outer} up'
        n $pid 'link set {inner} address 02:42:0a:5a:00:02'
        n $pid 'addr add {subnet}.2/24 brd {subnet}.255 dev {inner}'; n $pid 'link set {inner} up'"
    )
}

pub(super) fn on_host(pid: u32, script: &str) {
    crate::host("sh", &["-c", &format!("pid={pid}; {script}")]);
}

/// Serves a directory with one file of known content at port 8000 of the world's address.
fn serve(env: &Env, world: &World, address: &str) -> Server {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    pattern::write(7, FILE_BYTES, &mut bytes).expect("write to memory");
    let file = env.file("content", bytes);
    let directory = file.parent().map(Path::to_string_lossy).expect("a directory").into_owned();
    let server = world.start(&["busybox", "httpd", "-f", "-p", &format!("{address}:8000"), "-h", &directory]);
    wait_until("the server", || world.run(&["ss", "-ltnH"]).contains(":8000"));
    server
}

fn checksum(env: &Env) -> String {
    let file = env.directory("files").join("content");
    crate::host("md5sum", &[&file.to_string_lossy()]).split(' ').next().expect("a sum").to_owned()
}

fn networked(env: &Env, root: Root) -> Bundle {
    env.bundle(root)
}

fn by_hook(env: &Env) {
    let world = World::new();
    let script = format!(
        "exec </dev/stdin; state=$(cat); pid=${{state#*\\\"pid\\\":}}; pid=${{pid%%[,\\}}]*}}; pid=$(echo $pid); {}
        n $pid 'route add default via 10.90.0.1'; n $pid 'link set eth0 mtu 1400'",
        pair(&world, "w0", "eth0", "10.90.0")
    );
    let hook =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }]);
    let bundle = networked(env, Root::Busybox).set("/hooks/prestart", hook).script(
        "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ip -4 -o addr show eth0 | sed 's/.*inet/inet/; s/ *valid_lft.*//; s/[\\\\]//'
        ip route | sort; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered; ls /sys/class/net | grep -c -v -e lo -e eth0",
    );
    let outcome = env.run(&bundle);
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "02:42:0a:5a:00:02",
            "1400",
            "inet 10.90.0.2/24 brd 10.90.0.255 scope global eth0",
            "10.90.0.0/24 dev eth0 scope link  src 10.90.0.2",
            "default via 10.90.0.1 dev eth0",
            "answered",
            "0"
        ],
        "{outcome:?}"
    );
}

fn before_start(env: &Env) {
    let world = World::new();
    let bundle = networked(env, Root::Busybox).script("ip -4 -o addr show eth0 | grep -o 10.90.0.2/24; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered; nc -l -p 80 -e cat");
    let created = Created::new(env, bundle);
    on_host(created.pid.as_raw_nonzero().get().unsigned_abs(), &pair(&world, "w0", "eth0", "10.90.0"));
    created.call(&["start", &created.bundle.id]).ok();
    created.wait_for_output("answered");
    assert!(created.output().starts_with("10.90.0.2/24\n"), "{}", created.output());
    // The other way round: the world opens the connection.
    let echo = "for i in $(seq 60); do echo hello | busybox nc -w 20 10.90.0.2 80 && exit; sleep 1; done; exit 1";
    assert_eq!(world.run(&["sh", "-c", echo]).trim(), "hello");
}

fn come_and_go(env: &Env) {
    let world = World::new();
    let bundle = networked(env, Root::Busybox).script("echo running; exec sleep 1000");
    let created = Created::new(env, bundle);
    created.call(&["start", &created.bundle.id]).ok();
    created.wait_for_output("running");
    let links = || {
        created
            .call(&[
                "exec",
                &created.bundle.id,
                "sh",
                "-c",
                "ls /sys/class/net | grep -v lo; ip -4 addr | grep -o '10.9[0-9].0.2/'; true",
            ])
            .ok()
            .replace('\n', " ")
    };
    assert_eq!(links(), "");
    let pid = created.pid.as_raw_nonzero().get().unsigned_abs();
    on_host(pid, &pair(&world, "w0", "eth0", "10.90.0"));
    wait_until("eth0", || links() == "eth0 10.90.0.2/");
    on_host(pid, &pair(&world, "w1", "eth1", "10.91.0"));
    wait_until("eth1", || links() == "eth0 eth1 10.90.0.2/ 10.91.0.2/");
    created.call(&["exec", &created.bundle.id, "ping", "-c", "1", "-W", "20", "10.91.0.1"]).ok();
    // A neighbour, and nothing else.
    let neighbour = || created.call(&["exec", &created.bundle.id, "ip", "neigh"]).ok().contains("10.91.0.9 ");
    let change = |verb: &str| {
        let neighbour = "10.91.0.9 lladdr 02:00:00:00:00:09 dev eth1 nud permanent";
        on_host(pid, &format!("nsenter -t $pid -n ip neigh {verb} {neighbour}"));
    };
    change("add");
    wait_until("the neighbour", neighbour);
    change("del");
    wait_until("the neighbour to leave", || !neighbour());
    world.run(&["ip", "link", "del", "w0"]);
    wait_until("eth0 to leave", || links() == "eth1 10.91.0.2/");
    // Its place can be taken again.
    on_host(pid, &pair(&world, "w2", "eth0", "10.92.0"));
    wait_until("another eth0", || {
        links() == "eth0 eth1 10.91.0.2/ 10.92.0.2/" || links() == "eth0 eth1 10.92.0.2/ 10.91.0.2/"
    });
    created.call(&["exec", &created.bundle.id, "ping", "-c", "1", "-W", "20", "10.92.0.1"]).ok();
}

fn by_path(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "net0", "10.90.0"));
    world.run(&["ip", "addr", "add", "fd00:90::1/64", "dev", "w0", "nodad"]);
    for command in [
        "addr add fd00:90::2/64 dev net0 nodad",
        "addr add 10.95.0.7/32 dev net0",
        "route add 10.96.0.0/16 via 10.90.0.1 metric 77",
        "route add 10.97.0.0/16 via 10.98.0.1 dev net0 onlink",
        "-6 route add default via fd00:90::1",
        "neigh add 10.90.0.9 lladdr 02:00:00:00:00:09 dev net0 nud permanent",
    ] {
        place.run(&[&["ip"], command.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle = networked(env, Root::Busybox).without_namespace("network").namespace(path).script(
        "ip -o addr show net0 | grep -o 'inet6* [^ ]*' | grep -v fe80 | sort; ip route | sort | grep -v 'scope link'; ip -6 route | grep default | grep -o 'via [^ ]*'
        ip neigh | grep 10.90.0.9 | sed 's/used.* PERM/PERM/'; ping -c 1 -W 20 fd00:90::1 >/dev/null && echo six; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo four",
    );
    let outcome = env.run(&bundle);
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "inet 10.90.0.2/24",
            "inet 10.95.0.7/32",
            "inet6 fd00:90::2/64",
            "10.96.0.0/16 via 10.90.0.1 dev net0  metric 77",
            "10.97.0.0/16 via 10.98.0.1 dev net0 onlink",
            "via fd00:90::1",
            "10.90.0.9 dev net0 lladdr 02:00:00:00:00:09 PERMANENT",
            "six",
            "four"
        ],
        "{outcome:?}"
    );
    // The namespace is as it was, and works for others again.
    place.run(&["busybox", "ping", "-c", "1", "-W", "20", "10.90.0.1"]);
    let links = place.run(&["ip", "-o", "link"]);
    assert_eq!(links.lines().count(), 2, "{links}");
    let queues = place.run(&["tc", "qdisc", "show", "dev", "net0"]);
    assert!(!queues.contains("ingress"), "{queues}");
}

/// As CNI's `ptp` leaves it: even the neighbours of the subnet are reached by way of the gateway.
fn subnet_by_gateway(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "eth0", "10.90.0"));
    for command in [
        "route del 10.90.0.0/24 dev eth0",
        "route add 10.90.0.1 dev eth0 scope link src 10.90.0.2",
        "route add 10.90.0.0/24 via 10.90.0.1 src 10.90.0.2",
    ] {
        place.run(&[&["ip"], command.split(' ').collect::<Vec<_>>().as_slice()].concat());
    }
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle = networked(env, Root::Busybox)
        .without_namespace("network")
        .namespace(path)
        .script("ip route | sort | tr -s ' '; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered");
    let outcome = env.run(&bundle);
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "10.90.0.0/24 via 10.90.0.1 dev eth0 src 10.90.0.2",
            "10.90.0.1 dev eth0 scope link src 10.90.0.2",
            "answered"
        ],
        "{outcome:?}"
    );
}

/// Commands for a shell on the host: `eth0` in the namespace of process `$pid` is an interface of this kind on one of the world's, whose
/// other end is `w0`.
fn on_a_pair(world: &World, kind: &str) -> String {
    let world = world.pid();
    format!(
        "set -e
        n() {{ nsenter -t \"$1\" -n ip ${{2}}; }}
        n {world} 'link add w0 type veth peer name w1'; n {world} 'link set w0 up'; n {world} 'link set w1 up'
        n {world} 'link add link w1 name eth0 netns '\"$pid type {kind}\"
        n {world} 'addr add 10.90.0.1/24 dev w0'
        n $pid 'addr add 10.90.0.2/24 brd 10.90.0.255 dev eth0'; n $pid 'link set eth0 up'"
    )
}

/// Sends to a group again and again.
const TO_GROUP: &str = r"
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('10.90.0.1'))
while True:
    s.sendto(b'to all', ('239.1.2.3', 9999)); time.sleep(.2)
";

/// Joins the group, and takes one message.
const FROM_GROUP: &str = r"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.bind(('', 9999))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton('10.90.0.2'))
print(s.recv(100).decode())
";

fn multicast_groups(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &on_a_pair(&world, "macvlan mode bridge"));
    let _sender = world.start(&["python3", "-c", TO_GROUP]);
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle =
        networked(env, Root::Debian).without_namespace("network").namespace(path).args(&["python3", "-c", FROM_GROUP]);
    assert_eq!(env.run(&bundle).ok(), "to all");
    // The host's interface is as it was.
    let links = place.run(&["ip", "-d", "link", "show", "eth0"]);
    assert!(!links.contains("allmulti") || links.contains("allmulti 0"), "{links}");
}

/// No ARP, and the routes of the namespace that has the other interface.
fn ipvlan_layer_3(env: &Env) {
    let (world, router, place) = (World::new(), World::new(), World::new());
    let script = format!(
        "set -e
        n() {{ nsenter -t \"$1\" -n ip ${{2}}; }}
        n {world} 'link add w0 type veth peer name w1 netns {router}'
        n {world} 'addr add 10.90.0.1/24 dev w0'; n {world} 'link set w0 up'; n {world} 'route add 10.91.0.0/24 via 10.90.0.2'
        n {router} 'addr add 10.90.0.2/24 dev w1'; n {router} 'link set w1 up'
        n {router} 'link add link w1 name eth0 netns '\"$pid type ipvlan mode l3\"
        n $pid 'addr add 10.91.0.2/24 dev eth0'; n $pid 'link set eth0 up'; n $pid 'route add default dev eth0'",
        world = world.pid(),
        router = router.pid(),
    );
    on_host(place.pid(), &script);
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle = networked(env, Root::Busybox).without_namespace("network").namespace(path).script(
        "ip link show eth0 | grep -o NOARP; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered; nc -l -p 80 -e cat",
    );
    let created = Created::new(env, bundle);
    created.call(&["start", &created.bundle.id]).ok();
    created.wait_for_output("answered");
    assert_eq!(created.output().trim(), "NOARP\nanswered");
    let echo = "for i in $(seq 60); do echo hello | busybox nc -w 20 10.91.0.2 80 && exit; sleep 1; done; exit 1";
    assert_eq!(world.run(&["sh", "-c", echo]).trim(), "hello");
}

fn ipvlan_refused(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &on_a_pair(&world, "ipvlan mode l3s"));
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle = networked(env, Root::Busybox).without_namespace("network").namespace(path).script("true");
    let refused = env.run(&bundle);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("\"eth0\" is an ipvlan in L3S mode"), "{refused:?}");
}

/// Answers every question with 10.1.2.3, by UDP and by TCP, at an address.
const RESOLVER: &str = r"
import socket, struct, sys, threading
here = (sys.argv[1], 53)
def answer(q):
    end = q.index(0, 12) + 5
    found = q[end-4:end-2] == b'\0\1'
    return (q[:2] + b'\x81\x80\0\1' + struct.pack('>H', found) + b'\0\0\0\0' + q[12:end]
        + (b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3' if found else b''))
def tcp(s):
    while True:
        c, _ = s.accept()
        n = struct.unpack('>H', c.recv(2))[0]
        a = answer(c.recv(n))
        c.sendall(struct.pack('>H', len(a)) + a)
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(here); t.listen()
threading.Thread(target=tcp, args=(t,), daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(here)
while True:
    q, a = u.recvfrom(4096); u.sendto(answer(q), a)
";

/// Asks by a connected socket, by an unconnected one and by TCP, and takes the port for itself.
const CLIENT: &str = r"
import socket, struct
q = b'\x12\x34\1\0\0\1\0\0\0\0\0\0\4name\7example\0\0\1\0\1'
def show(how, a): print(how, a[:2] == q[:2], socket.inet_ntoa(a[-4:]), flush=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); s.connect(('127.0.0.11', 53)); s.send(q); show('connected', s.recv(512))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); s.sendto(q, ('127.0.0.11', 53)); a, f = s.recvfrom(512); show('unconnected', a); print(f)
s = socket.create_connection(('127.0.0.11', 53), 30); s.sendall(struct.pack('>H', len(q)) + q); n = s.recv(2); show('tcp', s.recv(512))
print(socket.gethostbyname('some.example'))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.90.0.2', 53)); print('free')
";

fn names(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "eth0", "10.90.0"));
    let _resolver = place.start(&["python3", "-c", RESOLVER, "127.0.0.11"]);
    wait_until("the resolver", || place.run(&["ss", "-lunH"]).contains("127.0.0.11:53"));
    ask(env, &place);
}

/// The resolver at 127.0.0.11 knows nothing by itself: it asks a server elsewhere, from the container's own address, as docker's does for
/// names that are none of its containers'.
const FORWARDER: &str = r"
import socket, threading
elsewhere = ('10.90.0.1', 53)
def tcp(s):
    while True:
        c, _ = s.accept()
        try:
            e = socket.create_connection(elsewhere, 10); e.sendall(c.recv(4096)); e.settimeout(10); c.sendall(e.recv(4096))
        except OSError as error: print(error, flush=True)
        c.close()
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(('127.0.0.11', 53)); t.listen()
threading.Thread(target=tcp, args=(t,), daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.11', 53))
while True:
    q, a = u.recvfrom(4096)
    try:
        e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); e.settimeout(10); e.connect(elsewhere); e.send(q); u.sendto(e.recv(4096), a)
    except OSError as error: print(error, flush=True)
";

fn names_of_elsewhere(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "eth0", "10.90.0"));
    let _server = world.start(&["python3", "-c", RESOLVER, "10.90.0.1"]);
    let _resolver = place.start(&["python3", "-c", FORWARDER]);
    wait_until("the server", || world.run(&["ss", "-lunH"]).contains("10.90.0.1:53"));
    wait_until("the resolver", || place.run(&["ss", "-lunH"]).contains("127.0.0.11:53"));
    ask(env, &place);
    let links = place.run(&["ip", "-o", "link"]);
    let queues = place.run(&["tc", "qdisc", "show", "dev", "eth0"]);
    assert!(links.lines().count() == 2 && !queues.contains("ingress"), "{links}{queues}");
}

fn ask(env: &Env, place: &World) {
    let resolv = env.file("resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n");
    let path: Value = json!({ "type": "network", "path": place.path() });
    let bundle = networked(env, Root::Debian)
        .without_namespace("network")
        .namespace(path)
        .bind(&resolv, "/etc/resolv.conf", &["ro"])
        .args(&["python3", "-c", CLIENT]);
    assert_eq!(
        env.run(&bundle).ok(),
        "connected True 10.1.2.3\nunconnected True 10.1.2.3\n('127.0.0.11', 53)\ntcp True 10.1.2.3\n10.1.2.3\nfree"
    );
}

/// Takes one connection, and prints the checksum of what comes.
const SINK: &str = r"
import hashlib, socket, sys
s = socket.create_server(('10.90.0.1', 82)); c, _ = s.accept(); h = hashlib.md5()
while b := c.recv(65536): h.update(b)
open(sys.argv[1], 'w').write(h.hexdigest())
";

fn many_bytes(env: &Env) {
    let world = World::new();
    let bundle = networked(env, Root::Busybox).script(
        "wget -q -O /content http://10.90.0.1:8000/content; md5sum </content | cut -d' ' -f1; nc 10.90.0.1 82 </content; echo end",
    );
    let created = Created::new(env, bundle);
    on_host(created.pid.as_raw_nonzero().get().unsigned_abs(), &pair(&world, "w0", "eth0", "10.90.0"));
    let _server = serve(env, &world, "10.90.0.1");
    let sum = checksum(env);
    let received = env.directory("files").join("received");
    let _sink = world.start(&["python3", "-c", SINK, &received.to_string_lossy()]);
    wait_until("the sink", || world.run(&["ss", "-ltnH"]).contains(":82"));
    created.call(&["start", &created.bundle.id]).ok();
    created.wait_for_output("end");
    assert_eq!(created.output().trim(), format!("{sum}\nend"));
    wait_until("the sum of what was sent", || std::fs::read_to_string(&received).is_ok_and(|got| got == sum));
}

fn devices_move(env: &Env) {
    let (world, caller) = (World::new(), World::new());
    on_host(caller.pid(), &pair(&world, "w0", "dev0", "10.90.0"));
    let bundle = networked(env, Root::Busybox).set("/linux/netDevices", json!({ "dev0": { "name": "eth7" } })).script(
        "ip -4 -o addr show eth7 | grep -o 10.90.0.2/24; ping -c 1 -W 20 10.90.0.1 >/dev/null && echo answered",
    );
    bundle.save();
    let pid = caller.pid().to_string();
    let mut command = std::process::Command::new("nsenter");
    command.args(["-t", &pid, "-n"]).arg(&env.runtime).args(["run", "--bundle"]).arg(&bundle.path).arg(&bundle.id);
    assert_eq!(outcome(command).ok(), "10.90.0.2/24\nanswered");
    // A name that nothing has.
    let mut command = std::process::Command::new("nsenter");
    command.args(["-t", &pid, "-n"]).arg(&env.runtime).args(["run", "--bundle"]).arg(&bundle.path).arg(&bundle.id);
    let refused = outcome(command);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("linux.netDevices") && refused.stderr.contains("\"dev0\""), "{refused:?}");
}

/// A bundle that lives in the namespaces of a container's process.
pub(super) fn beside(env: &Env, name: &str, created: &Created, kinds: &[&str]) -> Bundle {
    kinds.iter().fold(env.bundle_named(Root::Busybox, name), |bundle, kind| {
        let file = if *kind == "network" { "net" } else { kind };
        let path = format!("/proc/{}/ns/{file}", created.pid.as_raw_nonzero());
        bundle.without_namespace(kind).namespace(json!({ "type": kind, "path": path }))
    })
}

fn shared_namespaces(env: &Env) {
    let bundle = networked(env, Root::Busybox)
        .script("mkdir /www; echo page >/www/index.html; httpd -p 127.0.0.1:90 -h /www; echo up; exec sleep 4321");
    let first = Created::new(env, bundle);
    first.call(&["start", &first.bundle.id]).ok();
    first.wait_for_output("up");
    let script = "wget -q -O - http://127.0.0.1:90/; ps | grep -c '[s]leep 4321'; ls -d /www 2>/dev/null; echo mine >/file; cat /file; hostname";
    let second = beside(env, "second", &first, &["network", "pid", "ipc"]).script(script);
    assert_eq!(env.run(&second).ok(), "page\n1\nmine\nbox");
    assert_eq!(std::fs::read_to_string(second.host_path("file")).expect("read"), "mine\n");
    // One that lives on, and is removed; the first one does not mind.
    let third = Created::new(env, beside(env, "third", &first, &["network"]).script("echo up; exec sleep 1000"));
    third.call(&["start", &third.bundle.id]).ok();
    third.wait_for_output("up");
    assert_eq!(third.call(&["exec", &third.bundle.id, "wget", "-q", "-O", "-", "http://127.0.0.1:90/"]).ok(), "page");
    third.call(&["delete", "--force", &third.bundle.id]).ok();
    assert_eq!(first.call(&["exec", &first.bundle.id, "cat", "/www/index.html"]).ok(), "page");
    if !env.is_runc() {
        // With the container that has the micro-VM the others end.
        let fourth = Created::new(env, beside(env, "fourth", &first, &["network"]).script("echo up; exec sleep 1000"));
        fourth.call(&["start", &fourth.bundle.id]).ok();
        fourth.wait_for_output("up");
        first.call(&["kill", &first.bundle.id, "KILL"]).ok();
        let ended = || fourth.call(&["state", &fourth.bundle.id]).stdout.contains("\"stopped\"");
        wait_until("the end of the fourth", ended);
    }
}

/// Two containers in a namespace that was there before, which do not wait for each other.
fn made_at_once(env: &Env) {
    let (world, place) = (World::new(), World::new());
    on_host(place.pid(), &pair(&world, "w0", "eth0", "10.90.0"));
    let make = |name: &str| {
        let path: Value = json!({ "type": "network", "path": place.path() });
        let bundle = env.bundle_named(Root::Busybox, name).without_namespace("network").namespace(path);
        Created::new(env, bundle.script("ip -4 addr show eth0 | grep -o 10.90.0.2/24; exec sleep 1000"))
    };
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| make("one"));
        let other = make("other");
        (one.join().expect("the first"), other)
    });
    for container in [&one, &other] {
        container.call(&["start", &container.bundle.id]).ok();
        container.wait_for_output("10.90.0.2/24");
    }
}
