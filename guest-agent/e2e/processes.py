"""What a running container takes: more processes, a pause, other limits; and what it tells of itself."""

import json
import os
import threading
import time

from run import Box, Exec, config, refused, run
from ttrpc import field

FAILED_PRECONDITION, NOT_FOUND, INVALID = 9, 5, 3


def sleeper(agent, **options):
    return Box(agent, config("while :; do sleep 1000; done", **options)).start()


def stop(box):
    box.signal(9)
    assert box.wait().signal == 9


def spaces(process):
    return ["/proc/%s/ns/%s" % (process, kind) for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup", "user", "time")]


def test_exec_joins_everything(agent):
    linux = {"namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time")],
             "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
             "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
             "timeOffsets": {"boottime": {"secs": 1000000}}}
    for options in ({}, {"linux": linux}):
        box = sleeper(agent, **options)
        script = "hostname; cat /proc/self/cgroup; for n in pid net ipc uts mnt cgroup user time; do " \
                 "[ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n differs; done; " \
                 "ls /proc/self/fd; cut -d. -f1 /proc/uptime; id -u"
        out = Exec(box, script).wait().out.split("\n")
        # 3 is the directory that ls itself reads.
        assert out[:6] == ["boxed", "0::/", "0", "1", "2", "3"], out
        assert (int(out[6]) >= 1000000) == bool(options) and out[7] == "0", out
        stop(box)


def test_exec_applies_the_process(agent):
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}
    process = {"oomScoreAdj": 77, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]}
    box = sleeper(agent, process=process, linux={"seccomp": profile})
    caps = {"capabilities": {s: ["CAP_KILL"] for s in ("bounding", "effective", "permitted")}}
    script = "id -u; id -g; id -G; umask; echo $HOME; echo $A; pwd; ulimit -n; cat /proc/self/oom_score_adj; " \
             "mkdir /tmp/x; cat /proc/self/status"
    user = {"uid": 1000, "gid": 1000, "umask": 0o27, "additionalGids": [5, 6]}
    result = Exec(box, script, {"user": user, "cwd": "/dev", "env": ["PATH=/bin", "A=b"], **caps}).wait()
    lines = result.out.splitlines()
    assert lines[:9] == ["1000", "1000", "1000 5 6", "0027", "/home/user", "b", "/dev", "100", "77"], result
    assert "Seccomp:\t2" in lines and "CapBnd:\t0000000000000020" in lines and "NoNewPrivs:\t0" in lines, result
    assert "not permitted" in result.error, result
    script = "cut -d' ' -f19 /proc/self/stat; ionice -p $$; grep Cpus_allowed_list /proc/self/status"
    own = {"scheduler": {"policy": "SCHED_BATCH", "nice": 3}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
           "oomScoreAdj": 5, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}],
           "execCPUAffinity": {"initial": "7", "final": "0-3"}}
    result = Exec(box, "ulimit -n; cat /proc/self/oom_score_adj;" + script, own).wait()
    assert result.out.startswith("50\n5\n3\n") and "idle" in result.out and "list:\t0\n" in result.out, result
    stop(box)


def test_exec_streams_and_statuses(agent):
    box = sleeper(agent)
    process = Exec(box, "cat; echo done >&2; exit 42")
    process.stdin.sendall(b"abc")
    process.stdin.shutdown(1)
    result = process.wait()
    assert (result.status, result.out, result.error) == (42, "abc", "done\n"), result
    assert process.wait().status == 42, "waiting again"
    # What stays in the background does not hold up the reply.
    started = time.monotonic()
    end = agent.call("WaitProcess", field(1, box.id), field(2, Exec(box, "echo out; sleep 500 &").exec_id))
    assert not end.get(1) and time.monotonic() - started < 20
    assert Exec(box, "kill -6 $$").wait().signal == 6
    silent = Exec(box, "exit 3", streams=False)
    silent.threads, silent.out, silent.error = [], [], []
    assert silent.wait().status == 3
    stop(box)


def test_exec_on_a_terminal(agent):
    box = sleeper(agent)
    for name in ("/dev/pts/0", "/dev/pts/1"):
        process = Exec(box, ["sh"], {"terminal": True}, size=(40, 100))

        def until(word, out=process.out):
            for _ in range(400):
                if word in b"".join(out).decode(errors="replace"):
                    return
                time.sleep(0.05)
            raise AssertionError((word, out))
        process.tty.sendall(b"tty; stty size; echo first\n")
        until("\nfirst")
        until(name)
        until("40 100")
        agent.call("ResizeTerminal", field(1, box.id), field(2, process.exec_id), field(3, field(1, 50) + field(2, 120)))
        process.tty.sendall(b"stty size; echo second; cat\n")
        until("50 120\r\nsecond")
        process.tty.sendall(b"\x03")
        until("^C")
        if name.endswith("1"):
            process.tty.sendall(b"exit 7\n")
            assert process.wait().status == 7
    process = Exec(box, "stty size", {"terminal": True, "consoleSize": {"height": 11, "width": 22}})
    assert process.wait().out == "11 22\r\n"
    refused(lambda: agent.call("ResizeTerminal", field(1, box.id), field(3, field(1, 1))), "no terminal",
            code=FAILED_PRECONDITION)
    stop(box)


def test_exec_errors(agent):
    box = sleeper(agent)
    refused(lambda: Exec(box, ["foo"]), 'exec: "foo": executable file not found in $PATH', code=NOT_FOUND)
    refused(lambda: Exec(box, ["/x"]), 'exec: "/x": no such file or directory', code=NOT_FOUND)
    refused(lambda: Exec(box, ["/plain"]), 'exec: "/plain": permission denied', code=7)
    refused(lambda: Exec(box, ["sh"], {"cwd": "/nowhere"}), "chdir to cwd", "no such file", code=NOT_FOUND)
    refused(lambda: Exec(box, ["sh"], {"cwd": "nowhere"}), "process.cwd", code=INVALID)
    refused(lambda: Exec(box, [], {}), "process.args", code=INVALID)
    refused(lambda: Exec(box, ["sh"], {"apparmorProfile": "x"}), "apparmorProfile", code=INVALID)
    refused(lambda: Exec(box, ["sh"], exec_id="a/b"), "invalid", code=INVALID)
    refused(lambda: Exec(box, ["sh"], sub_cgroup="../x"), "cgroup", code=INVALID)
    refused(lambda: Exec(box, ["sh"], sub_cgroup="missing"), "no such file", code=INVALID)
    running = Exec(box, "sleep 1000", exec_id="twice")
    refused(lambda: Exec(box, ["sh"], exec_id="twice"), "already exists", code=6)
    running.signal(9)
    running.wait()
    assert Exec(box, "exit 4", exec_id="twice").wait().status == 4
    refused(lambda: agent.call("WaitProcess", field(1, box.id), field(2, "nobody")), "does not exist", code=NOT_FOUND)
    stop(box)
    refused(lambda: Exec(box, ["sh"]), "cannot exec in a stopped container", code=FAILED_PRECONDITION)


def test_signals_to_execs(agent):
    box = sleeper(agent)
    process = Exec(box, "trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.1; done")
    while not process.out:
        time.sleep(0.05)
    process.signal(15)
    result = process.wait()
    assert (result.status, result.out) == (3, "up\ngot\n"), result
    refused(lambda: process.signal(15), "os: process already finished", code=FAILED_PRECONDITION)
    many = [Exec(box, "sleep 1000") for _ in range(3)]
    box.signal(9, everyone=True)
    assert [p.wait().signal for p in many] == [9, 9, 9] and box.wait().signal == 9
    refused(lambda: box.signal(15), "container not running", code=FAILED_PRECONDITION)


def test_execs_end_with_the_first(agent):
    for spaces in (["mount", "pid"], ["mount"]):
        box = sleeper(agent, linux={"namespaces": [{"type": t} for t in spaces]}, hostname=None)
        process = Exec(box, "sleep 1000 & sleep 1000")
        stop(box)
        assert process.wait().signal == 9


def test_exec_before_start(agent):
    box = Box(agent, config("echo first"))
    assert Exec(box, "hostname").wait().out == "boxed\n"
    box.start()
    assert box.wait().out == "first\n"


def test_exec_in_a_sub_cgroup(agent):
    mounts = [{"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["rw"]}]
    box = sleeper(agent, mounts=mounts)
    assert Exec(box, "mkdir /cg/sub").wait().status == 0
    assert Exec(box, "cat /proc/self/cgroup", sub_cgroup="sub").wait().out == "0::/sub\n"
    # Once controllers are handed down, processes can be in leaves only: where the first one is.
    script = "mkdir /cg/leaf; for p in $(cat /cg/cgroup.procs); do echo $p > /cg/leaf/cgroup.procs; done; " \
             "echo +pids > /cg/cgroup.subtree_control; cat /cg/cgroup.subtree_control"
    assert Exec(box, script).wait().out == "pids\n"
    assert Exec(box, "cat /proc/self/cgroup").wait().out == "0::/leaf\n"
    stop(box)


def test_fifty_execs_at_once(agent):
    box = sleeper(agent)
    results = []

    def one(number):
        results.append((Exec(box, f"echo {number}; sleep 1; exit {number}").wait(), number))
    threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert len(results) == 50
    for result, number in results:
        assert (result.status, result.out) == (number, f"{number}\n"), result
    stop(box)


def test_execs_leave_nothing(agent):
    mounts = [m for m in config("x")["mounts"] if m["destination"] != "/proc"]
    box = sleeper(agent)
    spec = config("sleep 1000", linux={"namespaces": [{"type": "mount"}]}, hostname=None)
    watcher = Box(agent, {**spec, "mounts": mounts + [{"destination": "/proc", "type": "proc", "source": "proc"}]}).start()
    script = "ls /proc/1/fd | wc -l; ls -d /proc/[0-9]* | wc -l; grep VmRSS /proc/1/status; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"
    caps = {"capabilities": {s: ["CAP_SYS_PTRACE"] for s in ("bounding", "effective", "permitted")}}

    def census():
        return [int(line.split()[1 if "VmRSS" in line else 0]) for line in Exec(watcher, script, caps).wait().out.splitlines()]
    for _ in range(50):
        Exec(box, "true").wait()
    before = census()
    started, count = time.monotonic(), int(os.environ.get("SANDBOX_EXECS", "300"))
    for _ in range(count):
        assert Exec(box, "exit 5").wait().status == 5
    print(f"      {(time.monotonic() - started) / count * 1000:.0f} ms each")
    after = census()
    print("      descriptors, processes, KiB, zombies", before, after)
    # The kernel's own threads, which count here, come and go.
    assert after[0] <= before[0] and after[1] < before[1] + 10 and after[3] == 0 and after[2] < before[2] + 1500, (before, after)
    stop(box)
    stop(watcher)


def test_pause(agent):
    box = Box(agent, config("while :; do echo x; sleep 0.1; done")).start()
    name = field(1, box.id)
    agent.call("PauseContainer", name)
    time.sleep(0.3)
    count = len(b"".join(box.out))
    time.sleep(1)
    assert len(b"".join(box.out)) == count
    refused(lambda: Exec(box, ["true"]), "cannot exec in a paused container (use --ignore-paused to override)",
            code=FAILED_PRECONDITION)
    frozen = Exec(box, "echo ran; exit 8", ignore_paused=True)
    assert not frozen.executed.get(3) and not frozen.out
    missing = Exec(box, ["nothing"], ignore_paused=True)
    agent.call("ResumeContainer", name)
    result = frozen.wait()
    assert (result.status, result.out) == (8, "ran\n"), result
    assert missing.wait().status != 0
    refused(lambda: agent.call("ResumeContainer", name), "container not paused", code=FAILED_PRECONDITION)
    while len(b"".join(box.out)) == count:
        time.sleep(0.05)
    agent.call("PauseContainer", name)
    stop(box)
    refused(lambda: agent.call("PauseContainer", name), "container not running", code=FAILED_PRECONDITION)


def test_list(agent):
    box = sleeper(agent, process={"user": {"uid": 1000, "gid": 5}})
    process = Exec(box, "sleep 777", {"terminal": True})
    pid = process.executed[1]
    found = []
    while not any(b"sleep 777" in p[7] for p in found):  # the shell may be just about to become that
        found = agent.call_raw("ListProcesses", field(1, box.id))[1]
    first = next(p for p in found if p.get(9))
    assert first[1] == box.created[5] and first[3] == 1000 and b"while" in first[7] and first[6] == b"?", first
    execd = next(p for p in found if p.get(8))
    assert execd[8].decode() == process.exec_id and execd[1] == pid and execd[6] == b"pts/0", execd
    assert b"sleep 777" in execd[7] and abs(execd[4] - first[4]) < 600, (execd, first)
    stop(box)


def test_oom_is_told(agent):
    limits = {"resources": {"memory": {"limit": 32 << 20, "swap": 32 << 20}}}
    box = Box(agent, config("while :; do sleep 1000; done", linux=limits)).start()
    told = []

    def watch():
        seen = 0
        while True:
            answer = agent.call("WaitOom", field(1, box.id), field(2, seen))
            told.append(answer)
            seen = answer.get(1, 0)
            if answer.get(2):
                return
    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert Exec(box, "tail /dev/zero").wait().status != 0
    for _ in range(200):
        if len(told) >= 3:
            break
        time.sleep(0.05)
    assert len(told) >= 3 and all(t.get(1) and not t.get(2) for t in told[:3]), told
    stop(box)
    for thread in threads:
        thread.join(20)
    assert sum(bool(t.get(2)) for t in told) == 3, told
    assert agent.call("WaitOom", field(1, box.id))[2] == 1


def test_update(agent):
    resources = {"memory": {"limit": 64 << 20, "swap": 64 << 20}, "pids": {"limit": 50},
                 "cpu": {"shares": 512, "quota": 50000, "period": 100000}}
    devices = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]
    box = sleeper(agent, linux={"resources": resources, "devices": devices})
    script = "cd /sys/fs/cgroup; cat memory.max memory.swap.max pids.max cpu.weight cpu.max cpuset.cpus; true < /dev/fuse && echo may"

    def update(**resources):
        agent.call("UpdateContainer", field(1, box.id), field(2, json.dumps(resources)))
        return Exec(box, script).wait().out.split("\n")
    assert update() == ["67108864", "0", "50", "20", "50000 100000", "", ""]
    assert update(pids={"limit": 60}, cpu={"quota": 70000})[2:5] == ["60", "20", "70000 100000"]
    assert update(cpu={"period": 200000, "shares": 1024})[3:5] == ["39", "70000 200000"]
    assert update(cpu={"burst": 60000})[4] == "70000 200000"
    assert update(cpu={"quota": 10000, "burst": 5000})[4] == "10000 200000"
    assert update(memory={"swap": 96 << 20})[:2] == ["67108864", "33554432"]
    assert update(memory={"limit": 128 << 20, "swap": 128 << 20})[:2] == ["134217728", "0"]
    assert update(memory={"limit": -1})[:2] == ["max", "max"]
    assert update(cpu={"cpus": "5", "mems": "1"})[5] == "0"
    allow = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    assert update(devices=allow)[6] == "may"
    assert update(devices=allow[:1])[6] == ""
    refused(lambda: update(memory={"limit": 100 << 20, "swap": 50 << 20}), "memory+swap limit", code=INVALID)
    refused(lambda: update(memory={"limit": 4096, "checkBeforeUpdate": True}), "memory.limit", code=INVALID)
    refused(lambda: update(memory=5), "linux.resources", code=INVALID)
    stop(box)
    refused(lambda: update(), "container not running", code=FAILED_PRECONDITION)


def test_stats(agent):
    box = Box(agent, config("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo up; sleep 1000",
                            linux={"resources": {"memory": {"limit": 64 << 20, "swap": 80 << 20}, "pids": {"limit": 50}}})).start()
    while not box.out:
        time.sleep(0.05)
    stats = json.loads(agent.call("GetStats", field(1, box.id))[1])
    usage = stats["cpu"]["usage"]
    assert usage["total"] > 1e6 and abs(usage["user"] + usage["kernel"] - usage["total"]) < 1e7, stats
    assert stats["memory"]["usage"]["limit"] == 64 << 20 and stats["memory"]["usage"]["usage"] > 0, stats
    assert stats["memory"]["swap"]["limit"] == 80 << 20 and stats["memory"]["raw"]["anon"] > 0, stats
    assert stats["pids"]["current"] in (1, 2) and stats["pids"]["limit"] == 50 and stats["network_interfaces"] == [], stats
    stop(box)
    refused(lambda: agent.call("GetStats", field(1, box.id)), "container not running", code=FAILED_PRECONDITION)


def test_hooks(agent):
    state = json.dumps({"ociVersion": "1.2.0", "id": "name", "bundle": "/b", "annotations": {"a": "b"}})

    def hook(script, **more):
        return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin", "A=b"], **more}
    hooks = {"createContainer": [hook("cat > /dev/shm/one; echo $A $(hostname) > /dev/shm/env"), hook("echo two > /dev/shm/two")],
             "startContainer": [hook("cat > /dev/shm/three; id -u > /dev/shm/user")]}
    box = Box(agent, config("cd /dev/shm; for f in one env two three user; do cat $f; echo; done", hooks=hooks), state=state.encode())
    box.start()
    result = box.wait()
    lines = [line for line in result.out.split("\n") if line]
    assert len(lines) == 5, result
    one, three = json.loads(lines[0]), json.loads(lines[3])
    assert (one["status"], one["pid"], one["id"], one["annotations"]) == ("creating", 1, "name", {"a": "b"}), one
    assert (three["status"], three["pid"], lines[1:3], lines[4]) == ("created", 1, ["b boxed", "two"], "0"), result
    refused(lambda: Box(agent, config("true", hooks={"createContainer": [hook("echo why >&2; exit 3")]})),
            "hooks.createContainer[0]", "exit status 3", "why")
    refused(lambda: Box(agent, config("true", hooks={"createContainer": [{"path": "/nothing"}]})), "no such file")
    refused(lambda: Box(agent, config("true", hooks={"createContainer": [hook("sleep 100", timeout=1)]})),
            "ran past specified timeout of 1.0s")
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}
    for new_privileges in (True, False):
        box = Box(agent, config("echo ran", hooks={"startContainer": [hook("true"), hook("exit 4")]},
                                linux={"seccomp": profile}, process={"noNewPrivileges": new_privileges}))
        refused(box.start, "hooks.startContainer[1]", "exit status 4")
        assert box.wait().out == "" and box.wait().status == 1
