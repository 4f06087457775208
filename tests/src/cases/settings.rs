//! What config.json asks for holds in the container.

use std::fs;

use serde_json::{Value, json};

use super::lifecycle::Created;
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::{Case, Env, host};

pub(super) const CASES: &[Case] = &[
    any("settings::hostname_environment_and_directory", 120, hostname_environment_directory),
    any("settings::arguments_arrive_as_they_are", 120, arguments),
    any("settings::user_and_groups", 120, user_and_groups),
    any("settings::capabilities", 120, capabilities),
    any("settings::limits", 120, limits),
    any("settings::no_new_privileges", 120, no_new_privileges),
    any("settings::masked_and_readonly_paths", 120, masked_and_readonly_paths),
    any("settings::seccomp", 180, seccomp),
    any("settings::mounts", 180, mounts),
    any("settings::mounts_in_mounts", 120, mounts_in_mounts),
    any("settings::readonly_root", 120, readonly_root),
    any("settings::devices", 120, devices),
    any("settings::namespaces", 240, namespaces),
    any("settings::user_namespace", 120, user_namespace),
    ours("settings::time_namespace", 120, time_namespace),
    any("settings::sysctl", 120, sysctl),
    any("settings::session_keyring", 300, session_keyring),
    any("settings::cgroup_limits", 180, cgroup_limits),
    any("settings::out_of_memory", 240, out_of_memory),
    any("settings::loopback", 120, loopback),
    any("settings::process_details", 120, process_details),
];

fn run(env: &Env, bundle: Bundle, script: &str) -> String {
    let outcome = env.run(&bundle.script(script));
    outcome.ok().to_owned()
}

fn hostname_environment_directory(env: &Env) {
    let bundle = env
        .bundle(Root::Debian)
        .set("/hostname", json!("a-name.example"))
        .set("/process/env", json!(["PATH=/bin:/usr/bin", "EMPTY=", "SPACES= a b ", "UNI=ä\u{1f980}", "EQUALS=a=b"]))
        .set("/process/cwd", json!("/usr/share/../lib"));
    let got =
        run(env, bundle, "hostname; pwd -P; env | grep -v -e ^PWD= -e ^_= -e ^OLDPWD= -e ^HOME= -e ^SHLVL= | sort");
    assert_eq!(got, "a-name.example\n/usr/lib\nEMPTY=\nEQUALS=a=b\nPATH=/bin:/usr/bin\nSPACES= a b \nUNI=ä\u{1f980}");
}

fn arguments(env: &Env) {
    let bundle = env.bundle(Root::Busybox).probe(env).args(&[
        "/probe",
        "argv",
        "",
        "two words",
        "'\"$HOME`\\",
        "line\nbreak",
        "ä\u{1f980}",
        "-x",
    ]);
    assert_eq!(env.run(&bundle).ok(), "\ntwo words\n\\'\\\"$HOME`\\\\\nline\\nbreak\nä\u{1f980}\n-x");
}

fn user_and_groups(env: &Env) {
    let bundle = env
        .bundle(Root::Debian)
        .set("/process/user", json!({ "uid": 1000, "gid": 2000, "additionalGids": [7, 3000], "umask": 0o027 }))
        .set("/process/cwd", json!("/tmp"));
    let got = run(
        env,
        bundle,
        "id -u; id -g; id -G; umask; touch f; stat -c '%u:%g %a' f; cat /etc/shadow 2>&1 | grep -c denied",
    );
    assert_eq!(got, "1000\n2000\n2000 7 3000\n0027\n1000:2000 640\n1");
}

fn capabilities(env: &Env) {
    let set = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
    let bundle = env.bundle(Root::Debian).set(
        "/process/capabilities",
        json!({ "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"], "effective": set, "permitted": set }),
    );
    let got = run(
        env,
        bundle,
        "grep ^Cap /proc/self/status; chown 1 /tmp && echo chown; mknod /tmp/n c 1 3 2>/dev/null || echo no mknod",
    );
    // What root executes has all that the bounding set allows.
    let want = "CapInh:\t0000000000000000\nCapPrm:\t0000000000002021\nCapEff:\t0000000000002021\nCapBnd:\t0000000000002021\nCapAmb:\t0000000000000000\nchown\nno mknod";
    assert_eq!(got, want);
    // A user other than root with an ambient capability.
    let set = json!(["CAP_NET_BIND_SERVICE"]);
    let bundle =
        env.bundle_named(Root::Debian, "ambient").set("/process/user", json!({ "uid": 1000, "gid": 1000 })).set(
            "/process/capabilities",
            json!({ "bounding": set, "effective": set, "permitted": set, "inheritable": set, "ambient": set }),
        );
    assert_eq!(
        run(env, bundle, "grep -e ^CapEff -e ^CapAmb /proc/self/status"),
        "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400"
    );
}

fn limits(env: &Env) {
    let bundle = env.bundle(Root::Debian).set(
        "/process/rlimits",
        json!([
            { "type": "RLIMIT_NOFILE", "soft": 123, "hard": 456 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152 }
        ]),
    );
    assert_eq!(
        run(env, bundle, "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Ss; ulimit -Hs"),
        "123\n456\n0\n1024\n2048"
    );
    // With runc it depends on the host's fs.nr_open.
    if !env.is_runc() {
        let many = json!([{ "type": "RLIMIT_NOFILE", "soft": 1_500_000, "hard": 2_000_000 }]);
        let bundle = env.bundle_named(Root::Debian, "many").set("/process/rlimits", many);
        assert_eq!(run(env, bundle, "ulimit -Sn; ulimit -Hn"), "1500000\n2000000");
    }
}

fn no_new_privileges(env: &Env) {
    let mut bundle = env.bundle(Root::Debian).script("grep ^NoNewPrivs /proc/self/status");
    for (value, want) in [(true, "NoNewPrivs:\t1"), (false, "NoNewPrivs:\t0")] {
        bundle = bundle.set("/process/noNewPrivileges", json!(value));
        assert_eq!(env.run(&bundle).ok(), want);
    }
}

fn masked_and_readonly_paths(env: &Env) {
    let bundle = env
        .bundle(Root::Debian)
        .privileged()
        .set("/linux/maskedPaths", json!(["/proc/timer_list", "/etc/passwd", "/usr/share", "/no/such/path"]))
        .set("/linux/readonlyPaths", json!(["/proc/sys", "/etc", "/no/such/path"]));
    let got = run(
        env,
        bundle,
        "wc -c </etc/passwd; ls /usr/share | wc -l; (echo x >/etc/new) 2>&1 | grep -o 'Read-only file system'
         (echo x >/proc/sys/kernel/domainname) 2>&1 | grep -o 'Read-only file system'; touch /usr/new && echo writable",
    );
    assert_eq!(got, "0\n0\nRead-only file system\nRead-only file system\nwritable");
}

fn seccomp(env: &Env) {
    let filter = |rules: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": rules });
    let mut bundle = env.bundle(Root::Debian).set(
        "/linux/seccomp",
        filter(json!([
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 },
            { "names": ["sethostname", "no_such_call"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] }
        ])),
    );
    bundle = bundle.script(
        "mkdir /tmp/d 2>&1 | grep -o 'Operation not supported'; hostname x 2>&1 | grep -o 'must be root'; grep ^Seccomp: /proc/self/status
         python3 -c 'import ctypes; c = ctypes.CDLL(None); print(c.personality(8), c.personality(0))'",
    );
    // hostname(1) is not permitted with docker's capabilities either: the next case has none of that.
    assert_eq!(env.run(&bundle).ok(), "Operation not supported\nmust be root\nSeccomp:\t2\n-1 0");
    bundle = bundle
        .set("/linux/seccomp", filter(json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }])))
        .script("mkdir /tmp/d; echo status $?");
    assert_eq!(env.run(&bundle).ok().lines().last(), Some("status 159"));
    // Docker's way round: all forbidden but what is listed.
    bundle = bundle
        .set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
                { "names": ["read", "write", "writev", "open", "openat", "close", "stat", "fstat", "newfstatat", "lstat", "mmap", "mprotect", "munmap",
                    "brk", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "access", "faccessat", "faccessat2", "execve", "exit", "exit_group",
                    "arch_prctl", "set_tid_address", "set_robust_list", "prlimit64", "getrandom", "rseq", "pread64", "futex", "getuid", "geteuid",
                    "getgid", "getegid", "getpid", "getppid", "fcntl", "dup", "dup2", "dup3", "ioctl", "uname", "getcwd", "capget", "capset", "prctl",
                    "fchdir", "chdir", "setgid", "setuid", "setresuid", "setresgid", "setgroups", "getdents64", "fstatfs", "epoll_ctl", "epoll_pwait", "epoll_create1", "tgkill",
                    "gettid", "sched_yield", "nanosleep", "pipe2", "clone", "madvise", "sigaltstack", "lseek", "openat2", "umask",
                    "statfs", "statx", "poll", "ppoll", "eventfd2", "sched_getaffinity", "getsockopt", "recvmsg", "sendmsg", "clock_gettime",
                    "memfd_create", "wait4", "waitid", "setsid"],
                  "action": "SCMP_ACT_ALLOW" }
            ] }),
        )
        // The profile holds for hooks of this kind too, and is older than close_range(2), clone3(2) and pidfd_open(2).
        .set("/hooks/startContainer", json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo hooked > /hooked"] }]))
        .script("read line < /hooked; echo allowed, $line; kill -0 1 || echo no kill");
    let outcome = env.run(&bundle);
    assert_eq!(outcome.ok(), "allowed, hooked\nno kill");
    // ENOSYS, by defaultErrnoRet.
    assert!(outcome.stderr.contains("Function not implemented"), "{outcome:?}");
}

fn mounts(env: &Env) {
    let source = env.directory("source");
    fs::write(source.join("file"), "from the host\n").expect("write");
    let single = env.file("single", "one file\n");
    let bundle = env
        .bundle(Root::Debian)
        .bind(&source, "/new/rw", &["rw"])
        .bind(&source, "/new/ro", &["ro"])
        .bind(&single, "/etc/single.conf", &[])
        .bind(&single, "/new/single-ro", &["ro"])
        .bind(&source, "/new/noexec", &["noexec", "nosuid", "nodev"])
        .mount(json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1770", "size=1m"] }));
    let got = run(
        env,
        bundle,
        "cat /new/rw/file /etc/single.conf
         echo changed >/new/rw/file; cat /new/ro/file
         (echo x >/new/ro/file) 2>&1 | grep -o 'Read-only'; (echo x >/new/ro/y) 2>&1 | grep -o 'Read-only'
         (echo x >/new/single-ro) 2>&1 | grep -o 'Read-only'
         echo more >>/etc/single.conf
         printf '#!/bin/sh\\necho ran\\n' >/new/rw/script; chmod 755 /new/rw/script; /new/rw/script; /new/noexec/script 2>&1 | grep -o denied
         stat -f -c %T /scratch; stat -c %a /scratch; df -B1 --output=size /scratch | tail -1 | tr -d ' '
         head -c 2000000 /dev/zero 2>/dev/null >/scratch/big || echo full
         grep -c ' /scratch tmpfs rw,nosuid,nodev' /proc/self/mounts",
    );
    assert_eq!(
        got,
        "from the host\none file\nchanged\nRead-only\nRead-only\nRead-only\nran\ndenied\ntmpfs\n1770\n1048576\nfull\n1"
    );
    assert_eq!(fs::read_to_string(source.join("file")).expect("read"), "changed\n");
    assert_eq!(fs::read_to_string(&single).expect("read"), "one file\nmore\n");
}

/// Order counts: a bind below a tmpfs, and a bind over a directory of another bind.
fn mounts_in_mounts(env: &Env) {
    let outer = env.directory("outer");
    fs::create_dir_all(outer.join("inner")).expect("create");
    fs::write(outer.join("inner/hidden"), "").expect("write");
    let inner = env.directory("inner");
    fs::write(inner.join("shown"), "").expect("write");
    let bundle = env
        .bundle(Root::Debian)
        .bind(&outer, "/outer", &[])
        .bind(&inner, "/outer/inner", &["ro"])
        .mount(json!({ "destination": "/scratch", "type": "tmpfs", "source": "tmpfs" }))
        .bind(&inner, "/scratch/a/b", &[])
        // What is read-only in the end has to be filled first.
        .mount(json!({ "destination": "/sealed", "type": "tmpfs", "source": "tmpfs", "options": ["ro"] }))
        .bind(&inner, "/sealed/c", &[])
        .set("/process/cwd", json!("/sealed/cwd"));
    let got = run(
        env,
        bundle,
        "ls /outer/inner /scratch/a/b; touch /scratch/a/b/made; (touch /outer/inner/x) 2>&1 | grep -o Read-only
         pwd; touch /sealed/c/more; (touch /sealed/x) 2>&1 | grep -o Read-only; ls /sealed | xargs",
    );
    assert_eq!(got, "/outer/inner:\nshown\n\n/scratch/a/b:\nshown\nRead-only\n/sealed/cwd\nRead-only\nc cwd");
    assert!(inner.join("more").exists());
    assert!(inner.join("made").exists() && outer.join("inner/hidden").exists());
}

fn readonly_root(env: &Env) {
    let volume = env.directory("volume");
    let bundle = env.bundle(Root::Debian).set("/root/readonly", json!(true)).bind(&volume, "/mnt", &[]);
    let got = run(
        env,
        bundle,
        "(echo x >/etc/x) 2>&1 | grep -o Read-only; (rm /etc/passwd) 2>&1 | grep -o Read-only; echo x >/mnt/x && echo x >/dev/shm/x && echo volumes are not",
    );
    assert_eq!(got, "Read-only\nRead-only\nvolumes are not");
}

fn devices(env: &Env) {
    let bundle = env.bundle(Root::Debian).set(
        "/linux/devices",
        json!([{ "path": "/dev/extra/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4 }]),
    );
    let bundle = bundle.set(
        "/linux/resources/devices",
        json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm" }]),
    );
    let got = run(
        env,
        bundle,
        "for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done
         echo x >/dev/null; head -c 5 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; dd if=/dev/zero of=/dev/full bs=1 count=1 2>&1 | grep -o 'No space'
         stat -c '%F %a %u:%g %t:%T' /dev/extra/zero; head -c 3 /dev/extra/zero | wc -c
         readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx | xargs
         mknod /tmp/kmsg c 1 11; (head -c 1 /tmp/kmsg) 2>&1 | grep -o 'not permitted'
         stat -c %a /dev/shm; stat -f -c %T /dev/mqueue",
    );
    assert_eq!(
        got,
        "5\n8\nNo space\ncharacter special file 640 3:4 1:5\n3\n/proc/self/fd /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 pts/ptmx\nnot permitted\n1777\nmqueue"
    );
}

/// A namespace is new when it is listed and the machine's (runc) or the guest's (sandbox) when not.
fn namespaces(env: &Env) {
    let names = "pid net ipc uts mnt cgroup";
    let script = format!(
        "for n in {names}; do readlink /proc/self/ns/$n; done; echo pid $$; hostname; ls /sys/class/net | grep -v bonding_masters | xargs"
    );
    let all = run(env, env.bundle(Root::Debian), &script);
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines[6..], ["pid 1", "box", "lo"], "{all}");
    if env.is_runc() {
        for (line, name) in lines.iter().zip(names.split(' ')) {
            let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("readlink");
            assert_ne!(host.to_string_lossy(), **line);
        }
    }
    let mut bundle = env.bundle_named(Root::Debian, "fewer");
    for name in ["pid", "ipc", "uts", "cgroup"] {
        bundle = bundle.without_namespace(name);
    }
    bundle.spec.as_object_mut().expect("an object").remove("hostname");
    let fewer = run(env, bundle, &script);
    let lines: Vec<&str> = fewer.lines().collect();
    assert_ne!((lines[6], lines[7]), ("pid 1", "box"), "{fewer}");
}

fn user_namespace(env: &Env) {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let volume = env.directory("volume");
    std::os::unix::fs::chown(&volume, Some(100_000), Some(100_000)).expect("chown");
    let bundle = env.bundle(Root::Debian).bind(&volume, "/volume", &[]);
    host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
    let bundle = bundle
        .namespace(json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping)
        .set("/linux/resources", json!({}));
    // runc binds the host's node, and there is none of that name.
    let device =
        json!([{ "path": "/dev/naught", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8 }]);
    let bundle = if env.is_runc() { bundle } else { bundle.set("/linux/devices", device) };
    let got = run(
        env,
        bundle,
        "cat /proc/self/uid_map | xargs; id -u; touch /volume/f; chown 5:6 /volume/f; stat -c %u:%g /volume/f /etc/passwd
        [ ! -e /dev/naught ] || stat -c %u:%g:%a:%t:%T /dev/naught; echo x >/dev/naught",
    );
    let node = if env.is_runc() { "" } else { "\n7:8:640:1:3" };
    assert_eq!(got, format!("0 100000 65536\n0\n5:6\n65534:65534{node}"));
    use std::os::unix::fs::MetadataExt;
    let stat = fs::metadata(volume.join("f")).expect("stat");
    assert_eq!((stat.uid(), stat.gid()), (100_005, 100_006), "owner on the host");
}

fn time_namespace(env: &Env) {
    let bundle = env.bundle(Root::Debian).namespace(json!({ "type": "time" })).set(
        "/linux/timeOffsets",
        json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 }, "monotonic": { "secs": 500_000, "nanosecs": 5 } }),
    );
    let got = run(env, bundle, "cut -d. -f1 /proc/uptime; python3 -c 'import time; print(int(time.monotonic()))'");
    let numbers: Vec<u64> = got.lines().map(|line| line.parse().expect("a number")).collect();
    assert!((1_000_000..1_010_000).contains(&numbers[0]) && (500_000..510_000).contains(&numbers[1]), "{numbers:?}");
}

fn sysctl(env: &Env) {
    let bundle = env.bundle(Root::Debian).set(
        "/linux/sysctl",
        json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "65536", "fs.mqueue.msg_max": "11",
            "net/ipv4/conf/lo/rp_filter": "2", "net.ipv4/tcp_syncookies": "0" }),
    );
    assert_eq!(
        run(
            env,
            bundle,
            "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax fs/mqueue/msg_max net/ipv4/conf/lo/rp_filter net/ipv4/tcp_syncookies"
        ),
        "1\n65536\n11\n2\n0"
    );
}

/// All processes of a container have the same one, and no others of its name are found.
fn session_keyring(env: &Env) {
    let bundle = |name: &str, script: &str| {
        env.bundle_named(Root::Busybox, name).set("/linux/maskedPaths", json!(["/proc/kcore"])).script(script)
    };
    let number = |keys: &str, id: &str| {
        let of = |line: &str| line.split(' ').next().map(str::to_owned);
        keys.lines().find(|line| line.contains(&format!(" _ses.{id}: "))).and_then(of)
    };
    let container = Created::new(env, bundle("own", "cat /proc/keys; exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    container.wait_for_output("_ses.");
    let exec = container.call(&["exec", id, "cat", "/proc/keys"]);
    assert!(exec.ok().contains("3f1b0000     0     0 keyring   _ses."), "{exec:?}");
    assert_eq!(number(exec.ok(), id), number(&container.output(), id));
    assert!(number(exec.ok(), id).is_some());

    let bundle = bundle("without", "cat /proc/keys");
    bundle.save();
    let mut run = std::process::Command::new(&env.runtime);
    run.args(["run", "--no-new-keyring", "-b"]).arg(&bundle.path).arg(&bundle.id);
    let without = outcome(run);
    assert!(without.ok().contains(" keyring "), "{without:?}");
    assert_eq!(number(without.ok(), &bundle.id), None);
}

fn cgroup_limits(env: &Env) {
    let bundle = env.bundle(Root::Debian).set(
        "/linux/resources",
        json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "pids": { "limit": 20 },
            "memory": { "limit": 134_217_728, "reservation": 67_108_864 },
            "cpu": { "quota": 50_000, "period": 100_000, "shares": 512 },
            "unified": { "memory.high": "125829120" }
        }),
    );
    let got = run(
        env,
        bundle,
        "cd /sys/fs/cgroup; cat pids.max memory.max memory.low memory.high cpu.max cpu.weight cgroup.procs >/tmp/all; head -6 /tmp/all
         (echo max >pids.max) 2>&1 | grep -o Read-only
         (for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 2 & done) 2>&1 | grep -o -m1 -i -e 'cannot fork' -e 'resource temporarily unavailable'",
    );
    assert_eq!(got, "20\n134217728\n67108864\n125829120\n50000 100000\n20\nRead-only\nCannot fork");
}

/// The limit holds, and what exceeds it dies as it would on the host.
fn out_of_memory(env: &Env) {
    let limits = json!({ "devices": [{ "allow": false, "access": "rwm" }], "memory": { "limit": 50_331_648, "swap": 50_331_648 } });
    let mut bundle =
        env.bundle(Root::Busybox).probe(env).set("/linux/resources", limits).args(&["/probe", "touch-memory", "20"]);
    assert_eq!(env.run(&bundle).ok(), "touched 20 MiB");
    bundle = bundle.args(&["/probe", "touch-memory", "400"]);
    assert_eq!(env.run(&bundle).code(), 137);
    // A child that is killed does not end the container.
    bundle = bundle.script("/probe touch-memory 400; echo status $?; grep ^oom_kill /sys/fs/cgroup/memory.events");
    assert_eq!(env.run(&bundle).ok().lines().collect::<Vec<_>>(), ["status 137", "oom_kill 1"]);
}

fn loopback(env: &Env) {
    let script = "import socket, threading
s = socket.create_server((\"127.0.0.1\", 0))
def serve():
    c, _ = s.accept(); c.sendall(c.recv(100).upper()); c.close()
threading.Thread(target=serve).start()
c = socket.create_connection(s.getsockname()); c.sendall(b\"hello\"); print(c.recv(100).decode())
s6 = socket.create_server((\"::1\", 0), family=socket.AF_INET6); print(s6.getsockname()[0])";
    assert_eq!(
        run(env, env.bundle(Root::Debian), &format!("python3 -c '{script}'; cat /sys/class/net/lo/flags")),
        "HELLO\n::1\n0x9"
    );
}

fn process_details(env: &Env) {
    let bundle =
        env.bundle(Root::Debian).set("/process/oomScoreAdj", json!(123)).set("/process/cwd", json!("/made/for/it"));
    let got = run(
        env,
        bundle,
        "cat /proc/self/oom_score_adj; pwd; ls /proc/self/fd | wc -l
         grep -e ^SigBlk -e ^SigIgn /proc/self/status | grep -o '.......$'; cat /proc/self/loginuid >/dev/null 2>&1; cut -d' ' -f5-7 /proc/1/stat; ls -d /.old* /put_old 2>/dev/null | wc -l",
    );
    // No descriptor beyond the three (and the directory being listed), no signal blocked or ignored, a session of its own.
    assert_eq!(got, "123\n/made/for/it\n4\n0000000\n0000000\n1 1 0\n0");
}
