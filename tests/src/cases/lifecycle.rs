//! create, start, state, kill, delete and their kind, as containerd, docker and podman call them.

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::{Outcome, outcome};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("lifecycle::run_keeps", 180, kept),
    any("lifecycle::create_start_delete", 240, create_start_delete),
    any("lifecycle::wait_status_is_the_containers", 300, wait_status),
    any("lifecycle::words", 240, words),
    any("lifecycle::created_is_deleted", 180, created_is_deleted),
    any("lifecycle::console_socket", 240, console_socket),
    any("lifecycle::exec", 300, exec),
    any("lifecycle::exec_detached", 300, exec_detached),
    any("lifecycle::pause_and_resume", 240, pause_and_resume),
    any("lifecycle::log_file", 60, log_file),
    any("lifecycle::hooks_run_in_order", 240, hooks_run_in_order),
    ours("lifecycle::killed_proxy_and_monitor", 300, killed_proxy_and_monitor),
    ours("lifecycle::killed_create", 300, killed_create),
    ours("lifecycle::killed_exec_proxy", 240, killed_exec_proxy),
];

/// A created container: deleted at the end, whatever the test does.
pub(super) struct Created<'a> {
    env: &'a Env,
    pub(super) bundle: Bundle,
    pub(super) pid: Pid,
    output: PathBuf,
    pub(super) log: PathBuf,
}

impl<'a> Created<'a> {
    /// Its output goes to a file: a pipe would be held open by it.
    pub(super) fn new(env: &'a Env, bundle: Bundle) -> Self {
        // What create leaves running becomes this process's child, as it becomes the shim's.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
        let output = env.file(&format!("output-{}", bundle.id), "");
        let pid_file = env.directory("files").join(format!("pid-{}", bundle.id));
        let log = env.directory("files").join(format!("log-{}", bundle.id));
        let mut command = Command::new(&env.runtime);
        bundle.save();
        command.arg("--log").arg(&log).args(["create", "--bundle"]).arg(&bundle.path);
        command.arg("--pid-file").arg(&pid_file).arg(&bundle.id).stdin(Stdio::null());
        let file = fs::File::create(&output).expect("create");
        let status = command.stdout(file.try_clone().expect("duplicate")).stderr(file).status().expect("create");
        assert!(status.success(), "{}", fs::read_to_string(&output).unwrap_or_default());
        let text = fs::read_to_string(&pid_file).expect("the pid-file is there when create returns");
        let pid = Pid::from_raw(text.parse().expect("a number without a newline")).expect("a pid");
        Created { env, bundle, pid, output, log }
    }

    pub(super) fn call(&self, arguments: &[&str]) -> Outcome {
        call(self.env, arguments)
    }

    fn status(&self) -> String {
        state(self.env, &self.bundle.id)["status"].as_str().expect("a status").to_owned()
    }

    pub(super) fn output(&self) -> String {
        fs::read_to_string(&self.output).expect("read")
    }

    pub(super) fn wait_for_output(&self, text: &str) {
        wait_until(&format!("{text:?} in the output"), || self.output().contains(text));
    }

    /// The process became a child of this one when create ended.
    pub(super) fn wait(&self) -> rustix::process::WaitStatus {
        waitpid(Some(self.pid), WaitOptions::empty()).expect("a child of the subreaper").expect("waited").1
    }
}

impl Drop for Created<'_> {
    fn drop(&mut self) {
        let _ = call(self.env, &["delete", "--force", &self.bundle.id]);
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
    }
}

pub(super) fn create(env: &Env, bundle: &Bundle) -> Command {
    bundle.save();
    let mut command = Command::new(&env.runtime);
    command.args(["create", "--bundle"]).arg(&bundle.path);
    command
}

pub(super) fn call(env: &Env, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(&env.runtime);
    command.args(arguments);
    outcome(command)
}

/// What the kernel calls a process.
fn name(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).expect("read")
}

fn state(env: &Env, id: &str) -> Value {
    serde_json::from_str(call(env, &["state", id]).ok()).expect("JSON")
}

pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn refused(outcome: &Outcome, status: i32, words: &str) {
    assert_eq!(outcome.code(), status, "{outcome:?}");
    assert!(outcome.stderr.replace('\\', "").contains(words), "no {words:?} in {outcome:?}");
}

/// Until it is deleted, whatever other containers come.
fn kept(env: &Env) {
    let (bundle, other) =
        (env.bundle_named(Root::Busybox, "kept").args(&["true"]), env.bundle_named(Root::Busybox, "other"));
    bundle.save();
    let run = |arguments: &[&str]| {
        let path = bundle.path.to_string_lossy().into_owned();
        call(env, &[&["run"], arguments, &["--bundle", &path, &bundle.id]].concat())
    };
    run(&["--keep"]).ok();
    env.run(&other.args(&["true"])).ok();
    assert_eq!(state(env, &bundle.id)["status"], "stopped");
    refused(&run(&[]), 1, "already exists");
    call(env, &["delete", &bundle.id]).ok();
    refused(&call(env, &["state", &bundle.id]), 1, "does not exist");
}

fn create_start_delete(env: &Env) {
    let container = Created::new(
        env,
        env.bundle(Root::Busybox).script("echo up; trap 'echo got; exit 3' USR1; while :; do sleep 0.1; done"),
    );
    let id = container.bundle.id.as_str();
    let shown = state(env, id);
    assert_eq!(shown["status"], "created");
    assert_eq!(shown["pid"], container.pid.as_raw_nonzero().get());
    assert_eq!(shown["bundle"], container.bundle.path.canonicalize().expect("path").to_str().expect("text"));
    assert_eq!(container.output(), "", "nothing runs before start");
    assert!(call(env, &["list", "-q"]).ok().lines().any(|line| line == id));
    container.call(&["start", id]).ok();
    container.wait_for_output("up\n");
    assert_eq!(container.status(), "running");
    assert_eq!(name(container.pid), "sh\n", "as ps shows it");
    container.call(&["kill", id, "SIGUSR1"]).ok();
    assert_eq!(container.wait().exit_status(), Some(3));
    assert_eq!(container.output(), "up\ngot\n", "all output is written before the process ends");
    assert_eq!(container.status(), "stopped");
    container.call(&["delete", id]).ok();
    refused(&container.call(&["state", id]), 1, "does not exist");
    container.call(&["delete", "--force", id]).ok();
}

/// Exit code or signal, as a parent sees them.
fn wait_status(env: &Env) {
    for (script, code, signal) in
        [("exit 0", Some(0), None), ("exit 42", Some(42), None), ("kill -TERM $$; sleep 9", None, Some(15))]
    {
        let container = Created::new(env, env.bundle(Root::Busybox).without_namespace("pid").script(script));
        container.call(&["start", &container.bundle.id]).ok();
        let status = container.wait();
        assert_eq!((status.exit_status(), status.terminating_signal()), (code, signal), "{script}");
    }
}

fn words(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
    let id = container.bundle.id.as_str();
    let mut again = create(env, &container.bundle);
    again.arg(id);
    refused(&outcome(again), 1, "exist");
    container.call(&["start", id]).ok();
    refused(&container.call(&["start", id]), 1, "cannot start an already running container");
    refused(&container.call(&["delete", id]), 1, "that is not stopped: running");
    refused(&container.call(&["kill", id, "NOSUCH"]), 1, "unknown signal");
    container.call(&["kill", id, "KILL"]).ok();
    assert_eq!(container.wait().terminating_signal(), Some(9));
    refused(&container.call(&["kill", id, "9"]), 1, "container not running");
    container.call(&["kill", "--all", id, "9"]).ok();
    refused(&container.call(&["start", id]), 1, "cannot start a container that has stopped");
    for arguments in [&["start", "none"][..], &["kill", "none", "9"], &["state", "none"], &["delete", "none"]] {
        refused(&container.call(arguments), 1, "does not exist");
    }
}

fn created_is_deleted(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("echo never"));
    container.call(&["delete", &container.bundle.id]).ok();
    assert!(container.wait().terminating_signal().is_some());
    assert_eq!(container.output(), "");
}

/// The terminal's master comes over a socket, and the process goes by what happens to it.
fn console_socket(env: &Env) {
    let path = env.directory("files").join("console.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let bundle = env
        .bundle(Root::Busybox)
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({ "height": 44, "width": 123 }))
        .script("trap 'echo resized $(stty size)' WINCH; echo ready $(stty size); while :; do sleep 0.1; done");
    let mut command = create(env, &bundle);
    command.arg("--console-socket").arg(&path).arg(&bundle.id);
    // Nobody may hold the pipes that are this command's output.
    outcome(command).ok();
    let (connection, _) = listener.accept().expect("accept");
    let (master, name) = receive(connection);
    assert!(!name.is_empty() && name.len() < 4096);
    call(env, &["start", &bundle.id]).ok();
    let mut master = fs::File::from(master);
    wait_on_screen(&mut master, "ready 44 123\r\n");
    rustix::termios::tcsetwinsize(&master, crate::terminal::size(31, 99)).expect("resize");
    wait_on_screen(&mut master, "resized 31 99\r\n");
    master.write_all(b"\x03").expect("type");
    call(env, &["delete", "--force", &bundle.id]).ok();
}

fn wait_on_screen(master: &mut fs::File, text: &str) {
    let mut screen = String::new();
    let mut block = [0; 4096];
    while !screen.contains(text) {
        let count = master.read(&mut block).expect("read the terminal");
        screen.push_str(&String::from_utf8_lossy(&block[..count]));
    }
}

/// The one descriptor that comes over a connection, and the text with it.
pub(super) fn receive(connection: std::os::unix::net::UnixStream) -> (OwnedFd, Vec<u8>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = vec![0; 4096];
    let got = recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC);
    name.truncate(got.expect("receive").bytes);
    let mut found = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            found.extend(descriptors);
        }
    }
    assert_eq!(found.len(), 1, "exactly one descriptor");
    (found.remove(0), name)
}

fn exec(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("echo up; exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let result = container.call(&["exec", id, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((result.code(), result.stdout.as_str(), result.stderr.as_str()), (7, "out\n", "err\n"));
    let result = container.call(&[
        "exec",
        "--cwd",
        "/tmp",
        "-e",
        "A=b c",
        "-u",
        "5:6",
        id,
        "sh",
        "-c",
        "pwd; echo $A; id -u; id -g",
    ]);
    assert_eq!(result.ok(), "/tmp\nb c\n5\n6");
    // What is added overrides what is there.
    let twice = ["--debug=false", "--debug=false", "exec", "-e", "A=1", "-e", "A=2", id, "sh", "-c", "echo $A"];
    let added = container.call(&twice);
    assert_eq!(added.ok(), "2");
    refused(
        &container.call(&["exec", id, "no-such-program"]),
        255,
        "exec: \"no-such-program\": executable file not found in $PATH",
    );
    let told = container.call(&["--debug", "exec", id, "true"]);
    assert!(told.code() == 0 && told.stderr.contains("level=debug msg=\""), "{told:?}");
    let log = env.directory("files").join("debug.json");
    let options = ["--debug", "--log", log.to_str().expect("text"), "--log-format", "json"];
    let told = container.call(&[&options[..], &["exec", id, "true"]].concat());
    assert!(told.code() == 0 && told.stderr.is_empty(), "{told:?}");
    let lines = fs::read_to_string(&log).expect("the log");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["level"] == "debug" && line["msg"].is_string() && line["time"].is_string(), "{line}");
    }
    assert!(!lines.is_empty());
    let process =
        json!({"args": ["cat", "/proc/self/comm"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    let file = env.file("process.json", process.to_string());
    assert_eq!(container.call(&["exec", "--process", file.to_str().expect("text"), id]).ok(), "cat");
    // Names in another case are taken, as Go's JSON takes them.
    let process =
        json!({"ARGS": ["id", "-u"], "Cwd": "/", "env": ["PATH=/bin:/usr/bin"], "User": {"UID": 7, "gid": 0}});
    let file = env.file("process.json", process.to_string());
    assert_eq!(container.call(&["exec", "--process", file.to_str().expect("text"), id]).ok(), "7");
}

fn exec_detached(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("echo up; exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let pid_file = env.directory("files").join("exec.pid");
    let output = env.file("exec.out", "");
    let mut command = Command::new(&env.runtime);
    command.args(["exec", "--detach", "--pid-file"]).arg(&pid_file);
    command.args([id, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo here; while :; do sleep 0.1; done"]);
    let file = fs::File::create(&output).expect("create");
    assert!(command.stdin(Stdio::null()).stdout(file).status().expect("exec").success());
    let pid: i32 = fs::read_to_string(&pid_file).expect("the pid-file").parse().expect("a number");
    let pid = Pid::from_raw(pid).expect("a pid");
    wait_until("output of the process", || fs::read_to_string(&output).is_ok_and(|text| text.contains("here\n")));
    let pids: Value = serde_json::from_str(container.call(&["ps", "--format", "json", id]).ok()).expect("JSON");
    let pids = pids.as_array().expect("a list");
    for one in [container.pid, pid] {
        assert!(pids.contains(&json!(one.as_raw_nonzero().get())), "{one:?} in {pids:?}");
    }
    assert_eq!(name(pid), "sh\n");
    let table = container.call(&["ps", id, "-e", "-x"]);
    let titles: Vec<&str> = table.ok().lines().next().expect("titles").split_ascii_whitespace().collect();
    assert_eq!(titles, ["PID", "TTY", "STAT", "TIME", "COMMAND"]);
    assert!(table.ok().contains("echo here"), "{table:?}");
    let long = container.call(&["ps", id, "-l"]);
    let titles: Vec<&str> = long.ok().lines().next().expect("titles").split_ascii_whitespace().collect();
    assert_eq!(titles, "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD".split(' ').collect::<Vec<_>>());
    let pids = |options: &[&str]| -> Vec<u32> {
        let output = container.call(&[&["ps", id][..], options, &["-o", "pid"][..]].concat());
        output.ok().lines().skip(1).map(|line| line.trim().parse().expect("a pid")).collect()
    };
    let (all, last_first) = (pids(&["-e"]), pids(&["-e", "--sort", "-pid"]));
    assert!(
        all.len() >= 2 && all.is_sorted() && last_first.is_sorted_by(|one, other| one > other),
        "{all:?}, {last_first:?}"
    );
    let first = all.first().expect("a process").to_string();
    assert_eq!(pids(&["-p", &first]), all.get(..1).expect("one"));
    assert_eq!(container.call(&["ps", id, "-p", "x"]).code(), 1);
    assert_eq!(container.call(&["ps", id, "--no-such-option"]).code(), 1);
    // A signal comes by kill(2).
    kill_process(pid, Signal::TERM).expect("kill");
    let status = waitpid(Some(pid), WaitOptions::empty()).expect("a child of the subreaper").expect("waited").1;
    assert_eq!(status.exit_status(), Some(5));
    assert_eq!(fs::read_to_string(&output).expect("read"), "here\nbye\n");
}

fn pause_and_resume(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("while :; do echo tick; sleep 0.1; done"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    container.wait_for_output("tick");
    container.call(&["pause", id]).ok();
    assert_eq!(container.status(), "paused");
    std::thread::sleep(Duration::from_secs(1));
    let before = container.output().len();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(container.output().len(), before, "nothing runs");
    refused(&container.call(&["exec", id, "true"]), 255, "cannot exec in a paused container");
    container.call(&["resume", id]).ok();
    assert_eq!(container.status(), "running");
    wait_until("output after resume", || container.output().len() > before);
    refused(&container.call(&["resume", id]), 1, "container not paused");
}

/// Callers read why from the log: one object a line.
fn log_file(env: &Env) {
    let log = env.directory("files").join("log.json");
    let path = log.to_str().expect("text");
    let failed = call(env, &["--log", path, "--log-format", "json", "start", "no-such-container"]);
    assert_eq!(failed.code(), 1);
    let text = fs::read_to_string(&log).expect("the log");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["level"], &last["msg"]), (&json!("error"), &json!("container does not exist")));
}

/// Hooks of the host, each with the state on its standard input.
fn hooks_run_in_order(env: &Env) {
    let record = env.file("hooks", "");
    let hook = |name: &str| {
        let script =
            format!("echo {name} $(cat | grep -o '\"status\": *\"[a-z]*\"' | cut -d: -f2) >>{}", record.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let bundle = env.bundle(Root::Busybox).script("exec sleep 1000").set(
        "/hooks",
        json!({"prestart": hook("prestart"), "createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
            "poststop": hook("poststop")}),
    );
    let container = Created::new(env, bundle);
    container.call(&["start", &container.bundle.id]).ok();
    container.call(&["delete", "--force", &container.bundle.id]).ok();
    let text = fs::read_to_string(&record).expect("read").replace(['"', ' '], "");
    // runc 1.1 still says `created` to poststart.
    let text = text.replace("poststartcreated", "poststartrunning");
    let names: Vec<&str> = text.lines().collect();
    assert_eq!(names, ["prestartcreating", "createRuntimecreating", "poststartrunning", "poststopstopped"]);
}

/// SIGKILL of what serves a container leaves nothing that `delete --force` does not clean.
fn killed_proxy_and_monitor(env: &Env) {
    for victim in ["proxy", "monitor"] {
        let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
        let id = container.bundle.id.as_str();
        container.call(&["start", id]).ok();
        assert_eq!(state(env, id)["annotations"], Value::Null);
        let pid = match victim {
            "proxy" => container.pid,
            _ => Pid::from_raw(monitor_of(container.pid)).expect("a pid"),
        };
        kill_process(pid, Signal::KILL).expect("kill");
        let status = container.wait();
        assert!(status.terminating_signal() == Some(9) || status.exit_status() == Some(255), "{status:?}");
        assert_eq!(container.status(), "stopped");
        if victim == "monitor" {
            let shown = state(env, id);
            let reason = shown["annotations"]["io.sandbox.reason"].as_str().expect("a reason");
            assert!(reason.contains("was killed (signal 9)"), "{reason}");
            let logged = fs::read_to_string(&container.log).expect("the log of create");
            assert!(logged.contains("was killed (signal 9)"), "{logged:?}");
        }
        container.call(&["delete", "--force", id]).ok();
    }
}

/// The monitor of a container, or its keeper, by its proxy.
pub(super) fn monitor_of(proxy: Pid) -> i32 {
    let pid = proxy.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
    children.split_whitespace().next().expect("a monitor").parse().expect("a pid")
}

/// A create that dies at any moment leaves nothing that the next one with the same name does not clean.
fn killed_create(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("echo up; exec sleep 1000");
    for delay in [50, 400, 2000] {
        let mut command = create(env, &bundle);
        let mut child: Child =
            command.arg(&bundle.id).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("create");
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        let _ = child.wait();
    }
    let _ = call(env, &["delete", "--force", &bundle.id]);
    let container = Created::new(env, bundle);
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("up\n");
}

/// SIGKILL of an exec'd process's proxy is an order to kill the process.
fn killed_exec_proxy(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let pid_file = env.directory("files").join("exec.pid");
    let mut command = Command::new(&env.runtime);
    command.args(["exec", "--detach", "--pid-file"]).arg(&pid_file).args([id, "sleep", "777"]).stdout(Stdio::null());
    assert!(command.status().expect("exec").success());
    let runs = || container.call(&["ps", id]).ok().contains("sleep 777");
    assert!(runs());
    let pid: i32 = read_number(&pid_file);
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("kill");
    wait_until("end of the process", || !runs());
}

fn read_number(path: &Path) -> i32 {
    fs::read_to_string(path).expect("read").parse().expect("a number")
}
