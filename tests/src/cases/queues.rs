//! A network interface has a queue pair for each CPU of the guest.

use serde_json::json;

use super::lifecycle::{Created, wait_until};
use super::network::{on_host, pair};
use super::ours;
use crate::bundle::Root;
use crate::world::World;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    ours("queues::a_pair_for_each_cpu", 420, a_pair_for_each_cpu),
    ours("queues::one_cpu_has_one", 240, one_cpu_has_one),
];

/// Sends back what each connection has brought, once it has brought all.
const ECHO: &str = r"
import socket, sys, threading
s = socket.create_server((sys.argv[1], 83))
def serve(c):
    with c:
        got = bytearray()
        while b := c.recv(65536): got += b
        c.sendall(got)
while True:
    c, _ = s.accept(); threading.Thread(target=serve, args=(c,), daemon=True).start()
";

/// What the guest has, and whether four streams at once come back as they were sent; with a number, how many pairs are to be used from
/// now on (`ethtool -L`).
const STREAMS: &str = r"
import array, fcntl, os, random, socket, struct, sys, threading
address, use = sys.argv[1], sys.argv[2:]
if use:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    a = array.array('I', [0x3c] + [0] * 8)
    request = struct.pack('16sP16x', b'eth0', a.buffer_info()[0])
    fcntl.ioctl(s, 0x8946, request)
    a[0], a[8] = 0x3d, int(use[0])
    fcntl.ioctl(s, 0x8946, request)
    print('of', a[4], end=' ')
same = []
def stream(n):
    sent = random.Random(n).randbytes(1 << 20)
    with socket.create_connection((address, 83), 60) as c:
        t = threading.Thread(target=lambda: (c.sendall(sent), c.shutdown(socket.SHUT_WR))); t.start()
        got = bytearray()
        while b := c.recv(65536): got += b
        t.join(); same.append(got == sent)
threads = [threading.Thread(target=stream, args=(n,)) for n in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(*sorted(os.listdir('/sys/class/net/eth0/queues')), same.count(True), 'streams')
";

fn created<'e>(env: &'e Env, vcpus: &str) -> Created<'e> {
    let annotations = json!({ "io.sandbox.vcpus": vcpus });
    let bundle = env.bundle(Root::Debian).privileged().set("/annotations", annotations);
    let created = Created::new(env, bundle.script("echo up; exec sleep 1000"));
    created.call(&["start", &created.bundle.id]).ok();
    created.wait_for_output("up");
    created
}

/// Gives the container an interface, and to what runs in the world an address.
fn connect(world: &World, created: &Created, outer: &str, subnet: &str) {
    let pid = created.pid.as_raw_nonzero().get().unsigned_abs();
    on_host(pid, &pair(world, outer, "eth0", subnet));
    let address = format!("{subnet}.2/24");
    let there = ["exec", &created.bundle.id, "sh", "-c", "cat /proc/net/fib_trie 2>/dev/null; ls /sys/class/net"];
    let there = || {
        let shown = created.call(&there).stdout;
        shown.contains(&format!("{subnet}.2")) && shown.contains("eth0")
    };
    wait_until(&address, there);
}

fn streams(created: &Created, arguments: &[&str]) -> String {
    let id = created.bundle.id.as_str();
    created.call(&[&["exec", id, "python3", "-c", STREAMS], arguments].concat()).ok().to_owned()
}

/// How many queues of the tap are in use, in the host's words.
fn of_the_tap(created: &Created) -> String {
    let pid = created.pid.as_raw_nonzero().to_string();
    let text = crate::host("nsenter", &["-t", &pid, "-n", "ip", "-d", "link", "show", "type", "tun"]);
    let numbers = text.split_whitespace().skip_while(|word| *word != "numqueues");
    numbers.take(4).collect::<Vec<_>>().join(" ")
}

fn a_pair_for_each_cpu(env: &Env) {
    let world = World::new();
    let created = created(env, "2");
    connect(&world, &created, "w0", "10.90.0");
    let _echo = world.start(&["python3", "-c", ECHO, "10.90.0.1"]);
    wait_until("the server", || world.run(&["ss", "-ltnH"]).contains(":83"));
    let both = "rx-0 rx-1 tx-0 tx-1 4 streams";
    assert_eq!(streams(&created, &["10.90.0.1"]), both);
    assert_eq!(of_the_tap(&created), "numqueues 2 numdisabled 0");
    // The container's administrator may use fewer, and more again.
    for _ in 0..2 {
        assert_eq!(streams(&created, &["10.90.0.1", "1"]), "of 2 rx-0 tx-0 4 streams");
        assert_eq!(of_the_tap(&created), "numqueues 1 numdisabled 1");
        assert_eq!(streams(&created, &["10.90.0.1", "2"]), format!("of 2 {both}"));
    }
    assert_eq!(of_the_tap(&created), "numqueues 2 numdisabled 0");
    // The interface goes, and another one comes.
    world.run(&["ip", "link", "del", "w0"]);
    let links = ["exec", &created.bundle.id, "ls", "/sys/class/net"];
    wait_until("eth0 to leave", || !created.call(&links).ok().contains("eth0"));
    connect(&world, &created, "w1", "10.92.0");
    let _other = world.start(&["python3", "-c", ECHO, "10.92.0.1"]);
    wait_until("the server", || world.run(&["ss", "-ltnH"]).contains("10.92.0.1:83"));
    assert_eq!(streams(&created, &["10.92.0.1"]), both);
}

fn one_cpu_has_one(env: &Env) {
    let world = World::new();
    let created = created(env, "1");
    connect(&world, &created, "w0", "10.90.0");
    let _echo = world.start(&["python3", "-c", ECHO, "10.90.0.1"]);
    wait_until("the server", || world.run(&["ss", "-ltnH"]).contains(":83"));
    assert_eq!(streams(&created, &["10.90.0.1"]), "rx-0 tx-0 4 streams");
    assert_eq!(of_the_tap(&created), "", "a tap with one queue, as ever");
}
