"""What a guest with the agent must do, seen from the host and from inside the container."""

import hashlib
import json
import os
import threading
import time

from run import ROOT, Box, config, fails, run
from ttrpc import RpcError, field


def test_echo(agent):
    box = Box(agent, config(["echo", "hello"]))
    assert box.created[5] > 1
    result = box.start().wait()
    assert (result.status, result.out, result.error) == (0, "hello\n", ""), result
    times = [box.created[n] for n in (1, 2, 3, 4)] + [box.started[1]]
    print("      ms since listening:", [f"{(t - times[0]) / 1e6:.1f}" for t in times[1:]])
    assert times == sorted(times)


def test_status(agent):
    status = agent.call("GetGuestStatus")
    print(f"      used {status[3] >> 20} of {status[4] >> 20} MiB, listening {status[5] / 1e6:.1f} ms after boot")
    assert status[1].startswith(b"6.")
    caps = {"capabilities": {s: ["CAP_SYSLOG"] for s in ("bounding", "effective", "permitted")}}
    print("      " + run(agent, "dmesg | grep sandbox-agent:", process=caps).out.strip())


def test_exit_statuses(agent):
    for code in (0, 1, 127, 255):
        assert run(agent, f"exit {code}").status == code
    result = run(agent, "kill -9 $$; sleep 9", linux={"namespaces": [{"type": "mount"}]}, hostname=None)
    assert (result.status, result.signal) == (137, 9), result


def test_stderr_and_stdin(agent):
    box = Box(agent, config("cat; echo done >&2")).start()
    box.stdin.sendall(b"abc")
    box.stdin.shutdown(1)
    result = box.wait()
    assert (result.out, result.error) == ("abc", "done\n"), result


def test_100_mib(agent):
    box = Box(agent, config(["cat"])).start()
    block = os.urandom(1 << 20)
    sent = hashlib.sha256()

    def feed():
        for _ in range(100):
            box.stdin.sendall(block)
            sent.update(block)
        box.stdin.shutdown(1)
    thread = threading.Thread(target=feed)
    started = time.monotonic()
    thread.start()
    agent.call("WaitProcess", field(1, box.id), timeout=600)
    thread.join()
    for t in box.threads:
        t.join(20)
    print(f"      {100 / (time.monotonic() - started):.0f} MiB/s")
    data = b"".join(box.out)
    assert len(data) == 100 << 20, len(data)
    assert hashlib.sha256(data).digest() == sent.digest()


def test_container_that_closes_stdin(agent):
    box = Box(agent, config("exec <&-; sleep 1; echo end")).start()
    try:
        while True:
            box.stdin.sendall(bytes(1 << 16))
    except OSError:
        pass
    assert box.wait().out == "end\n"


def test_background_process_dies_with_the_first(agent):
    options = {"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]}}
    started = time.monotonic()
    result = run(agent, "sleep 100 & echo up", **options)
    assert result.out == "up\n" and time.monotonic() - started < 20, result


def test_terminal(agent):
    spec = config(["sh"], process={"terminal": True})
    box = Box(agent, spec, terminal=True, size=(40, 100)).start()

    def until(word):
        for _ in range(400):
            if word in b"".join(box.out).decode(errors="replace"):
                return
            time.sleep(0.05)
        raise AssertionError((word, box.out))
    box.tty.sendall(b"tty; stty size; ls -l /dev/console | cut -c1; echo first\n")
    until("\nfirst")
    until("/dev/pts/0")
    until("40 100")
    agent.call("ResizeTerminal", field(1, box.id), field(3, field(1, 50) + field(2, 120)))
    box.tty.sendall(b"stty size; echo second; cat\n")
    until("50 120\r\nsecond")
    box.tty.sendall(b"echoed\n")
    until("echoed\r\nechoed")
    box.tty.sendall(b"\x03")
    until("^C")
    time.sleep(0.5)
    box.tty.sendall(b"exit 7\n")
    result = box.wait()
    assert result.status == 7, result


def test_identity(agent):
    script = "id -u; id -g; id -G; umask; echo $HOME; echo $A; pwd; hostname; cat /proc/self/status"
    user = {"uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [5, 6]}
    result = run(agent, script, process={"user": user, "cwd": "/new/dir"})
    lines = result.out.splitlines()
    assert lines[:8] == ["1000", "1000", "1000 5 6", "0027", "/home/user", "b", "/new/dir", "boxed"], result
    assert "NoNewPrivs:\t1" in lines and "CapEff:\t0000000000000000" in lines and "CapBnd:\t00000000000004e3" in lines
    result = run(agent, "echo $HOME; grep Cap /proc/self/status")
    assert result.out.startswith("/root\n") and "CapEff:\t00000000000004e3" in result.out, result


def test_errors_at_create(agent):
    fails(agent, ["foo"], 'exec: "foo": executable file not found in $PATH', code=5)
    fails(agent, ["/x"], 'exec: "/x": no such file or directory', code=5)
    fails(agent, ["/plain"], 'exec: "/plain": permission denied', code=7)
    fails(agent, ["sh"], 'chdir to cwd', process={"cwd": "/plain"}) if False else None
    fails(agent, ["sh"], "apparmorProfile", code=3, process={"apparmorProfile": "x"})
    fails(agent, ["sh"], "/nonexistent", mounts=[{"destination": "/m", "type": "bind", "source": "/nonexistent",
                                                  "options": ["bind"]}])
    fails(agent, ["sh"], "inside /proc", mounts=[{"destination": "/proc/sys", "type": "tmpfs", "source": "x"}])
    for method in ("StartContainer", "WaitProcess", "SignalProcess"):
        try:
            agent.call(method, field(1, "nobody"))
            raise AssertionError(method)
        except RpcError as error:
            assert error.code == 5, error


def test_exec_format_error_at_start(agent):
    spec = config(["/tmp/script"], mounts=[{"destination": "/tmp/script", "type": "bind", "source": f"{ROOT}/bin/empty",
                                            "options": ["bind"]}])
    run(agent, "echo x > /bin/empty; chmod 755 /bin/empty")
    box = Box(agent, spec)
    try:
        box.start()
        raise AssertionError("started")
    except RpcError as error:
        assert "exec:" in error.message and "format" in error.message, error


def test_signals(agent):
    box = Box(agent, config("trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.1; done")).start()
    while not box.out:
        time.sleep(0.05)
    box.signal(15)
    result = box.wait()
    assert (result.status, result.out) == (3, "up\ngot\n"), result
    try:
        box.signal(15)
        raise AssertionError
    except RpcError as error:
        assert "container not running" in error.message and error.code == 9, error
    box.signal(9, everyone=True)
    assert box.wait().status == 3, "waiting again"
    created = Box(agent, config(["true"]))
    created.signal(9)
    assert created.wait().signal == 9
    sleeper = Box(agent, config("sleep 100 & sleep 100")).start()
    sleeper.signal(9, everyone=True)
    assert sleeper.wait().status == 137


def test_ids_and_states(agent):
    box = Box(agent, config(["true"]))
    try:
        agent.call("CreateContainer", field(1, box.id), field(2, b"{}"))
        raise AssertionError
    except RpcError as error:
        assert error.code == 3, error
    box.start()
    try:
        box.start()
        raise AssertionError
    except RpcError as error:
        assert error.code == 9, error
    box.wait()
    try:
        agent.call("CreateContainer", field(1, "../x"), field(2, b"{}"))
        raise AssertionError
    except RpcError as error:
        assert error.code == 3, error


def test_file_systems(agent):
    extra = [
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["size=1m", "mode=700", "noexec"]},
        {"destination": "/dir", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]},
        {"destination": "/ro", "type": "bind", "source": f"{ROOT}/dir", "options": ["rbind", "rro"]},
        {"destination": "/file", "type": "bind", "source": f"{ROOT}/dir/file", "options": ["bind", "ro"]},
        {"destination": "/m/over", "type": "overlay", "source": "o",
         "options": [f"lowerdir={ROOT}/dir:{ROOT}/etc"]},
    ]
    result = run(agent, "cat /dir/file /file /m/over/file; ls /m/over; echo x > /ro/f; echo x > /file; echo x > /new-file; "
                 "stat -c %a /data; cat /proc/mounts; ls -l /dev; cat /proc/keys; touch /proc/sys/x; ls /sys/fs/cgroup",
                 mounts=extra, readonly=True)
    assert result.out.startswith("below\n" * 3 + "file\npasswd\n700\n"), result
    assert result.error.count("Read-only file system") >= 3, result.error
    for word in ("/data tmpfs rw,noexec", "/ro rootfs ro" if False else "/ro ", "cgroup2 ro,nosuid", "fd -> /proc/self/fd",
                 "ptmx -> pts/ptmx", "cgroup.procs"):
        assert word in result.out, (word, result.out)


def test_remount_and_id_maps(agent):
    maps = {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1000}],
            "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 1000}]}
    extra = [
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["size=1m", "mode=700"]},
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["remount", "ro", "size=2m"]},
        {"destination": "/b", "type": "bind", "source": f"{ROOT}/dir", "options": ["bind"]},
        {"destination": "/b", "type": "bind", "source": f"{ROOT}/dir", "options": ["bind", "remount", "ro", "nosuid"]},
        {"destination": "/mapped", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"], **maps},
    ]
    script = "grep -E ' /(data|b|mapped) ' /proc/mounts; stat -c '%u %g' /mapped; touch /data/x; touch /b/x"
    user = {"namespaces": [{"type": t} for t in ("pid", "ipc", "uts", "mount", "network", "user")],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 65536}]}
    result = run(agent, script, mounts=extra)
    assert "/data tmpfs ro" in result.out and "size=2048k" in result.out and "ro,nosuid" in result.out, result
    assert "\n1000 2000\n" in result.out and result.error.count("Read-only file system") == 2, result
    extra[-1] = {"destination": "/mapped", "type": "bind", "source": "/tmp", "options": ["rbind", "ridmap"]}
    result = run(agent, "stat -c '%u %g' /mapped", mounts=extra[-1:], linux=user)
    assert result.out == "0 0\n", result
    fails(agent, ["sh"], "ids of the mount", "/mapped", mounts=[{**extra[-1], "source": "/proc", **maps}])
    fails(agent, ["sh"], "only supported for bind", mounts=[{"destination": "/x", "type": "tmpfs", "source": "t", **maps}])
    fails(agent, ["sh"], "users and groups", mounts=[extra[-1]])


def test_sysctls_that_are_not_the_containers(agent):
    fails(agent, ["sh"], 'sysctl "vm.swappiness" is not in a separate kernel namespace', code=3,
          linux={"sysctl": {"vm.swappiness": "1"}})


def test_hostile_links_stay_inside(agent):
    run(agent, "ln -sfn ../../../../../.. /escape; ln -sfn /run /link")
    extra = [{"destination": "/escape/tmp/inside", "type": "tmpfs", "source": "t"},
             {"destination": "/link/a/b", "type": "tmpfs", "source": "t"}]
    result = run(agent, "grep -c -e ' /tmp/inside ' -e ' /run/a/b ' /proc/mounts", mounts=extra)
    assert result.out == "2\n", result


def test_limits(agent):
    resources = {"memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 50},
                 "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}, "unified": {"memory.high": "max"}}
    script = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.weight cpu.max cpuset.cpus; ulimit -n; cat /proc/self/oom_score_adj"
    process = {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}], "oomScoreAdj": 500}
    result = run(agent, script, process=process, linux={"resources": resources, "cgroupsPath": "/a/b/c"})
    assert result.out.split("\n") == ["67108864", "50", "20", "50000 100000", "0", "100", "500", ""], result


def test_oom(agent):
    result = run(agent, "tail /dev/zero", linux={"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}})
    assert result.oom and result.status != 0, result
    assert not run(agent, "true").oom


def test_devices(agent):
    devices = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 7, "gid": 8},
               {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o644, "major": 0, "minor": 0}]
    linux = {"devices": devices}
    script = "stat -c '%F %a %u %g %t %T' /dev/fuse /dev/sub/pipe; true < /dev/fuse; echo $?; echo x > /dev/null && head -c 4 /dev/zero | wc -c"
    denied = run(agent, script, linux=linux)
    assert "character special file 600 7 8 a e5" in denied.out and "fifo 644" in denied.out, denied
    assert denied.out.endswith("1\n4\n") and "not permitted" in denied.error, denied
    allow = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    allowed = run(agent, script, linux={**linux, "resources": {"devices": allow}})
    assert "not permitted" not in allowed.error, allowed


def test_seccomp(agent):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
               "syscalls": [{"names": ["mkdir", "mkdirat", "not_a_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
                             "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}]}
    script = "mkdir /made; grep Seccomp: /proc/self/status; kill -10 $$; kill -0 $$ && echo fine"
    for privileges in (True, False):
        result = run(agent, script, process={"noNewPrivileges": privileges}, linux={"seccomp": profile})
        assert "Operation not permitted" in result.error and "Seccomp:\t2" in result.out, result
        assert "fine" in result.out and "Permission denied" in result.error, result


def test_user_and_time_namespaces(agent):
    linux = {"namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time")],
             "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
             "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
             "timeOffsets": {"boottime": {"secs": 1000000}}}
    result = run(agent, "id -u; cat /proc/self/uid_map; cut -d. -f1 /proc/uptime; echo x > /dev/null; ls -ln /dev/null; "
                 "stat -Lc %u /proc/self/fd/1", linux=linux)
    lines = result.out.splitlines()
    assert result.status == 0 and lines[0] == "0" and lines[1].split() == ["0", "100000", "65536"], result
    assert int(lines[2]) >= 1000000 and lines[-1] == "0", result
    assert int(run(agent, "cut -d. -f1 /proc/uptime").out) < 10000, "the agent is back"


def test_joined_namespaces(agent):
    first = Box(agent, config(["sleep", "100"])).start()
    pid = first.created[5]
    kinds = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    spaces = [{"type": k, "path": f"/proc/{pid}/ns/{v}"} for k, v in kinds.items()] + [{"type": "mount"}]
    script = "hostname; ps | grep -c '[s]leep 100'; (readlink /proc/self/ns/net; readlink /proc/1/ns/net) | uniq | wc -l"
    result = run(agent, script, hostname=None, linux={"namespaces": spaces})
    assert result.out.split() == ["boxed", "1", "1"], result
    first.signal(9)
    assert first.wait().signal == 9
    assert run(agent, "true").status == 0


def test_sysctl_network_and_others(agent):
    linux = {"sysctl": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "65535", "net.ipv4.conf.lo.forwarding": "0"},
             "personality": {"domain": "LINUX32"}, "rootfsPropagation": "rslave"}
    process = {"scheduler": {"policy": "SCHED_BATCH", "nice": 3},
               "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}
    result = run(agent, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; uname -m; ip addr show lo | grep -c UP; "
                 "ionice -p $$; cut -d' ' -f19 /proc/self/stat", linux=linux, process=process, domainname="dom")
    assert result.out.split("\n")[:4] == ["1", "65535", "i686", "1"], result
    assert "idle" in result.out and result.out.endswith("3\n"), result


def test_hidden_descriptors(agent):
    other = Box(agent, config("sleep 100")).start()
    result = run(agent, "ls /proc/self/fd | wc -l; ls /proc/1/fd")
    # 3 is the directory that ls itself reads.
    assert result.out == "4\n0\n1\n2\n3\n", result
    other.signal(9)
    other.wait()


def test_missing_stream_times_out(agent):
    started = time.monotonic()
    try:
        agent.call("CreateContainer", field(1, "late"), field(2, json.dumps(config(["true"]))),
                   field(3, field(2, 99999)))
        raise AssertionError
    except RpcError as error:
        assert "not connected" in error.message and 9 < time.monotonic() - started < 15, error


def test_nothing_stays_behind(agent):
    probe = "ls -d /sys/fs/cgroup/box* 2>/dev/null | wc -l; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; ls /proc/1/fd | wc -l"
    spec = {"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]}}
    mounts = [m for m in config("x")["mounts"] if "cgroup" not in m["destination"]]
    first = None
    for _ in range(3):
        for _ in range(10):
            run(agent, "true")
        whole = config(probe, **spec)
        whole["mounts"] = mounts + [{"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup",
                                     "options": ["rbind", "ro"]}]
        out = Box(agent, whole).start().wait().out.split()
        first = first or out
        assert out == first, (first, out)
        assert out[0] == "1", out


def test_many_at_once(agent):
    boxes = [Box(agent, config(f"echo {n}")) for n in range(20)]
    for box in boxes:
        box.start()
    for n, box in enumerate(boxes):
        assert box.wait().out == f"{n}\n"


def test_timers(agent):
    started = time.monotonic()
    assert run(agent, "sleep 1; sleep 1; echo end").out == "end\n"
    assert time.monotonic() - started < 10
