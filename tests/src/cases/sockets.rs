//! Unix sockets of the host's in a container, and the one by which a service says that it is ready.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::json;

use super::lifecycle::{Created, call};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("sockets::carried", 300, carried),
    any("sockets::who_connects", 240, who_connects),
    any("sockets::last_words", 240, last_words),
    any("sockets::end_with_the_container", 240, end_with_the_container),
    any("sockets::of_a_container_that_joined", 300, joined),
    ours("sockets::restarted_service", 240, restarted_service),
    ours("sockets::only_streams", 60, only_streams),
    any("sockets::ready_after_start", 300, ready_after_start),
    any("sockets::ready_of_a_run", 300, ready_of_a_run),
    any("sockets::ready_is_for_both_commands", 300, ready_is_for_both_commands),
];

/// What programs in the container begin with.
const CLIENT: &str = "
import os, socket, stat, sys, threading, time
def connect(path='/run/host.sock'):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s
def ask(data, path='/run/host.sock'):
    s = connect(path)
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sending = threading.Thread(target=send)
    sending.start()
    got = []
    while chunk := s.recv(65536):
        got.append(chunk)
    sending.join()
    return b''.join(got)
";

fn python(env: &Env, name: &str, script: &str) -> Bundle {
    env.bundle_named(Root::Debian, name).args(&["python3", "-u", "-c", &format!("{CLIENT}{script}")])
}

fn listen(env: &Env, name: &str) -> (UnixListener, PathBuf) {
    let path = env.directory("files").join(name);
    let _ = fs::remove_file(&path);
    (UnixListener::bind(&path).expect("bind"), path)
}

fn echo(mut stream: UnixStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Gives back what is sent, on this many connections.
fn serve(listener: UnixListener, connections: usize) -> JoinHandle<()> {
    thread::spawn(move || {
        let each: Vec<_> = (0..connections)
            .map(|_| listener.accept().expect("accept").0)
            .map(|stream| thread::spawn(move || echo(stream)))
            .collect();
        each.into_iter().for_each(|thread| thread.join().expect("a connection"));
    })
}

fn carried(env: &Env) {
    let (listener, path) = listen(env, "socket");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    chown(&path, Some(0), Some(77)).expect("chown");
    let serving = serve(listener, 22);
    let script = "
found = os.stat('/run/host.sock')
print(stat.S_ISSOCK(found.st_mode), oct(found.st_mode & 0o7777), found.st_uid, found.st_gid)
print(ask(b'question').decode())
much = os.urandom(1 << 20) * 3
print(ask(much) == much)
wrong = []
def one(number):
    if ask(b'%d' % number * 1000) != b'%d' % number * 1000:
        wrong.append(number)
several = [threading.Thread(target=one, args=(number,)) for number in range(20)]
[one.start() for one in several]
[one.join() for one in several]
print(wrong)
";
    let bundle = python(env, "bundle", script).bind(&path, "/run/host.sock", &["ro"]);
    assert_eq!(env.run(&bundle).ok(), "True 0o640 0 77\nquestion\nTrue\n[]");
    serving.join().expect("the service");
}

/// The service knows the container's user, and the node's mode says who may connect.
fn who_connects(env: &Env) {
    let ((listener, open), (_closed_listener, closed)) = (listen(env, "open"), listen(env, "closed"));
    for (path, mode) in [(&open, 0o666), (&closed, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let seen = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let credentials = socket_peercred(&stream).expect("SO_PEERCRED");
        echo(stream);
        (credentials.uid.as_raw(), credentials.gid.as_raw())
    });
    let script = "
print(ask(b'open').decode())
try:
    connect('/run/closed.sock')
except PermissionError:
    print('closed')
";
    let bundle = python(env, "bundle", script).bind(&open, "/run/host.sock", &[]);
    let bundle = bundle.bind(&closed, "/run/closed.sock", &[]).set("/process/user", json!({ "uid": 1234, "gid": 567 }));
    assert_eq!(env.run(&bundle).ok(), "open\nclosed");
    assert_eq!(seen.join().expect("the service"), (1234, 567));
}

/// What was written arrives, though the container ends at once.
fn last_words(env: &Env) {
    let (listener, path) = listen(env, "socket");
    let received = thread::spawn(move || {
        let mut words = Vec::new();
        for _ in 0..2 {
            let mut text = String::new();
            listener.accept().expect("accept").0.read_to_string(&mut text).expect("read");
            words.push(text);
        }
        words
    });
    let script = "
one, two = connect(), connect()
one.sendall(b'first' * 2000)
two.sendall(b'last')
os._exit(3)
";
    let bundle = python(env, "bundle", script).bind(&path, "/run/host.sock", &[]);
    assert_eq!(env.run(&bundle).code(), 3);
    // Connections are carried side by side: which of the two comes first is not said.
    let mut words = received.join().expect("the service");
    words.sort_by_key(String::len);
    assert!(words == ["last".to_owned(), "first".repeat(2000)], "{:?}", words.iter().map(String::len));
}

fn end_with_the_container(env: &Env) {
    let (listener, path) = listen(env, "socket");
    let bundle = python(env, "bundle", "s = connect(); s.sendall(b'x'); print('up'); time.sleep(1000)");
    let container = Created::new(env, bundle.bind(&path, "/run/host.sock", &[]));
    container.call(&["start", &container.bundle.id]).ok();
    container.wait_for_output("up");
    let (mut stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.read_exact(&mut [0]).expect("a byte");
    container.call(&["kill", &container.bundle.id, "KILL"]).ok();
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

/// Each container in a micro-VM has its own way to its sockets.
fn joined(env: &Env) {
    let ((listener, path), (other_listener, other)) = (listen(env, "socket"), listen(env, "other"));
    let serving = [serve(listener, 2), serve(other_listener, 1)];
    let script = "print(ask(b'first').decode()); time.sleep(1000)";
    let first = Created::new(env, python(env, "first", script).bind(&path, "/run/host.sock", &[]));
    first.call(&["start", &first.bundle.id]).ok();
    first.wait_for_output("first");
    let namespace = format!("/proc/{}/ns/net", first.pid.as_raw_nonzero());
    let script = "print(ask(b'second').decode(), ask(b'other', '/run/other.sock').decode())";
    let second = python(env, "second", script).bind(&path, "/run/host.sock", &[]).bind(&other, "/run/other.sock", &[]);
    let second = second.without_namespace("network").namespace(json!({ "type": "network", "path": namespace }));
    assert_eq!(env.run(&second).ok(), "second other");
    serving.into_iter().for_each(|serving| serving.join().expect("the service"));
}

/// A bind mount keeps the socket that was there; here it is found by its path.
fn restarted_service(env: &Env) {
    let (listener, path) = listen(env, "socket");
    let serving = serve(listener, 1);
    let script = "
for line in sys.stdin:
    try:
        print('got', ask(line.strip().encode()).decode())
    except OSError as error:
        print('got an error')
";
    // Its root is mounted until it goes.
    let bundle = python(env, "bundle", script).bind(&path, "/run/host.sock", &[]);
    let mut running = env.start(&bundle);
    running.write("one\n");
    running.wait_for("got one");
    serving.join().expect("the service");
    // The connection is made with the agent, and ends when there is nobody behind it.
    running.write("two\n");
    assert!(["got ", "got an error"].contains(&running.line().as_str()));
    let (listener, _) = listen(env, "socket");
    let serving = serve(listener, 1);
    running.write("three\n");
    running.wait_for("got three");
    serving.join().expect("the service");
    running.close_stdin();
    running.finish().ok();
}

fn only_streams(env: &Env) {
    let path = env.directory("files").join("datagrams");
    let _socket = UnixDatagram::bind(&path).expect("bind");
    let result = env.run(&env.bundle(Root::Busybox).args(&["true"]).bind(&path, "/socket", &[]));
    assert_eq!(result.code(), 1, "{result:?}");
    assert!(result.stderr.contains("is a Unix socket for datagrams"), "{result:?}");
}

/// A service manager: what it is told, until [`Manager::messages`].
struct Manager {
    path: PathBuf,
    told: Receiver<String>,
    reading: JoinHandle<()>,
}

impl Manager {
    fn new(env: &Env) -> Self {
        let path = env.directory("files").join("manager");
        // One that came before has left it.
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("bind");
        let (sender, told) = channel();
        let reading = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = socket.recv(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        });
        Self { path, told, reading }
    }

    /// What was told until now. runc from version 1.2 on sends a barrier too, by which it waits for the manager.
    fn messages(self) -> Vec<String> {
        UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", &self.path)).expect("send");
        self.reading.join().expect("the manager");
        self.told.try_iter().filter(|message| message != "BARRIER=1").collect()
    }

    fn command(&self, env: &Env, arguments: &[&str]) -> Command {
        let mut command = Command::new(&env.runtime);
        command.args(arguments).env("NOTIFY_SOCKET", &self.path);
        command
    }
}

/// What a service sends, with what it is not asked to send.
const SERVICE: &str = "
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(text):
    s.sendto(text.encode(), os.environ['NOTIFY_SOCKET'])
say('STATUS=begins')
time.sleep(1)
say('STATUS=more\\nREADY=0')
say('READY=1\\nSTATUS=ready\\nMAINPID=3')
";

/// `create`, which leaves its output and what it has started behind.
fn create(env: &Env, bundle: &Bundle, mut command: Command) -> Pid {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
    bundle.save();
    let pid_file = env.directory("files").join("pid");
    command.args(["--bundle".as_ref(), bundle.path.as_path(), "--pid-file".as_ref(), &pid_file]);
    command.arg(&bundle.id).stdin(Stdio::null());
    let file = fs::File::create(env.directory("files").join("output")).expect("create");
    let status = command.stdout(file.try_clone().expect("duplicate")).stderr(file).status().expect("create");
    assert!(status.success(), "{}", output(env));
    let text = fs::read_to_string(&pid_file).expect("a pid-file");
    Pid::from_raw(text.parse().expect("a number")).expect("a pid")
}

fn output(env: &Env) -> String {
    fs::read_to_string(env.directory("files").join("output")).expect("read")
}

fn delete(env: &Env, bundle: &Bundle, pid: Pid) {
    call(env, &["delete", "--force", &bundle.id]).ok();
    let _ = waitpid(Some(pid), WaitOptions::empty());
}

/// `start` is back when the container is ready.
fn ready_after_start(env: &Env) {
    let manager = Manager::new(env);
    let bundle = python(env, "bundle", &format!("{SERVICE}time.sleep(1000)"));
    let pid = create(env, &bundle, manager.command(env, &["create"]));
    outcome(manager.command(env, &["start", &bundle.id])).ok();
    assert_eq!(manager.messages(), ["READY=1\n".to_owned(), format!("MAINPID={}\n", pid.as_raw_nonzero())]);
    let mount = call(env, &["exec", &bundle.id, "grep", " /run/notify ", "/proc/self/mounts"]);
    let options = mount.ok().split(' ').nth(3).expect("options").to_owned();
    assert!(options.starts_with("ro,nosuid,nodev,noexec"), "{options}");
    delete(env, &bundle, pid);
}

/// The service is `run` itself, while it waits for the container's end. One that ends without a word is told of by its end.
fn ready_of_a_run(env: &Env) {
    let manager = Manager::new(env);
    let bundle = python(env, "bundle", &format!("{SERVICE}time.sleep(2); sys.exit(7)"));
    bundle.save();
    let mut command = manager.command(env, &["run", "--bundle"]);
    let mut child = command.arg(&bundle.path).arg(&bundle.id).stdin(Stdio::null()).spawn().expect("run");
    assert_eq!(child.wait().expect("wait").code(), Some(7));
    assert_eq!(manager.messages(), ["READY=1\n".to_owned(), format!("MAINPID={}\n", child.id())]);
    if env.is_runc() {
        // It waits for the word of a container that has ended.
        return;
    }
    let manager = Manager::new(env);
    let silent = env.bundle_named(Root::Busybox, "silent").script("test -S $NOTIFY_SOCKET; exit $((5 + $?))");
    silent.save();
    let mut command = manager.command(env, &["run", "--bundle"]);
    command.arg(&silent.path).arg(&silent.id);
    assert_eq!(outcome(command).code(), 5);
    assert!(manager.messages().is_empty());
}

fn ready_is_for_both_commands(env: &Env) {
    let manager = Manager::new(env);
    let bundle = env.bundle(Root::Busybox).script("echo $NOTIFY_SOCKET; ls -A /run/notify | wc -l");
    let without = |word: &str| {
        let mut command = Command::new(&env.runtime);
        command.arg(word);
        command
    };
    // Only `create` has it: the directory is there, and nobody listens.
    let pid = create(env, &bundle, manager.command(env, &["create"]));
    let mut start = without("start");
    start.arg(&bundle.id);
    outcome(start).ok();
    let _ = waitpid(Some(pid), WaitOptions::empty());
    assert_eq!(output(env), "/run/notify/notify.sock\n0\n");
    call(env, &["delete", &bundle.id]).ok();
    // Only `start` has it.
    let pid = create(env, &bundle, without("create"));
    assert_eq!(outcome(manager.command(env, &["start", &bundle.id])).code(), 1);
    delete(env, &bundle, pid);
    assert!(manager.messages().is_empty());
}
