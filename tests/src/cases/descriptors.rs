//! Descriptors that callers hand over, and those that nobody may keep.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::lifecycle::{Created, call, create, receive, wait_until};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("descriptors::preserved_files", 180, preserved_files),
    any("descriptors::preserved_in_exec", 240, preserved_in_exec),
    any("descriptors::preserved_socket", 180, preserved_socket),
    ours("descriptors::no_directory_is_preserved", 60, no_directory),
    ours("descriptors::pidfd_of_a_container", 240, pidfd_of_a_container),
    ours("descriptors::pidfd_of_an_exec", 240, pidfd_of_an_exec),
    any("descriptors::closed_output_is_closed_for_the_caller", 240, closed_output),
];

/// A shell that opens files under numbers of their own before it becomes the runtime.
fn through_shell(env: &Env, opening: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{opening}; exec \"$0\" \"$@\"")]).arg(&env.runtime).args(arguments);
    command
}

fn run_with(env: &Env, opening: &str, options: &[&str], bundle: &Bundle) -> Command {
    bundle.save();
    let path = bundle.path.to_str().expect("text").to_owned();
    through_shell(env, opening, &[&["run", "-b", &path], options, &[&bundle.id]].concat())
}

fn preserved_files(env: &Env) {
    let (input, output) = (env.file("in", "what was there\n"), env.file("out", ""));
    let opening = format!("exec 3<{} 4>{}", input.display(), output.display());
    let bundle = env.bundle(Root::Busybox).script("tr a-z A-Z <&3 >&4; ls /proc/self/fd | wc -l; cat /proc/self/fd/3");
    let result = outcome(run_with(env, &opening, &["--preserve-fds", "2"], &bundle));
    // 0, 1, 2, 3, 4 and the directory that ls reads.
    assert_eq!(result.ok(), "6");
    assert_eq!(fs::read_to_string(&output).expect("read"), "WHAT WAS THERE\n");
}

fn preserved_in_exec(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let opening = format!("exec 4<{}", env.file("in", "hello\n").display());
    let arguments = ["exec", "--preserve-fds=2", id, "cat", "/proc/self/fd/3", "/proc/self/fd/4"];
    // The guest's own /dev/null stands for the first of the two.
    let mut command = through_shell(env, &format!("exec 3</dev/null; {opening}"), &arguments);
    command.stdin(Stdio::null());
    assert_eq!(outcome(command).ok(), "hello");
    // runc refuses one that is not open.
    if !env.is_runc() {
        let script = "[ -e /proc/self/fd/3 ] || echo none; cat <&4";
        let arguments = ["exec", "--preserve-fds=2", id, "sh", "-c", script];
        let mut command = through_shell(env, &format!("exec 3<&-; {opening}"), &arguments);
        command.stdin(Stdio::null());
        assert_eq!(outcome(command).ok(), "none\nhello");
    }
}

/// Both directions, each with an end of its own.
fn preserved_socket(env: &Env) {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let bundle = env.bundle(Root::Busybox).script("tr a-z A-Z <&3 >&3; echo done");
    let mut command = run_with(env, "exec 3<&0 </dev/null", &["--preserve-fds", "1"], &bundle);
    let child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    drop(command);
    let child = child.expect("start");
    ours.write_all(b"to the guest and back").expect("write");
    ours.shutdown(Shutdown::Write).expect("half-close");
    let mut answer = String::new();
    ours.read_to_string(&mut answer).expect("read");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(answer, "TO THE GUEST AND BACK", "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
}

fn no_directory(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("true");
    let result = outcome(run_with(env, "exec 3</", &["--preserve-fds", "1"], &bundle));
    assert_eq!(result.code(), 1, "{result:?}");
    assert!(result.stderr.contains("descriptor 3 is a directory"), "{result:?}");
}

/// Who reads a container's output sees its end when the container has closed it, although the container goes on.
fn closed_output(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("echo last words; exec >/dev/null 2>&1; exec sleep 1000");
    bundle.save();
    let mut command = Command::new(&env.runtime);
    command.args(["run", "--detach", "-b"]).arg(&bundle.path).arg(&bundle.id).stdin(Stdio::null());
    // Both pipes end only when nobody holds them.
    assert_eq!(outcome(command).ok(), "last words");
    assert!(call(env, &["state", &bundle.id]).ok().contains("running"));
    call(env, &["delete", "--force", &bundle.id]).ok();
}

/// Starts a command that hands over a pidfd, to its end, and takes it.
fn handle(env: &Env, name: &str, command: &mut Command, arguments: &[&str]) -> OwnedFd {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
    let path = env.directory("files").join(name);
    let listener = UnixListener::bind(&path).expect("bind");
    let output = env.file(&format!("{name}.out"), "");
    let file = fs::File::create(&output).expect("create");
    command.arg("--pidfd-socket").arg(&path).args(arguments).stdin(Stdio::null());
    let status = command.stdout(file.try_clone().expect("duplicate")).stderr(file).status().expect("start");
    assert!(status.success(), "{}", fs::read_to_string(&output).unwrap_or_default());
    receive(listener.accept().expect("accept").0).0
}

/// A pidfd can be read, so to say, once its process has ended.
fn ends_within(pidfd: &OwnedFd, seconds: i64) -> bool {
    let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).expect("poll") == 1
}

/// This process inherits what its children leave, so it can wait for it.
fn status_of(pidfd: &OwnedFd) -> Option<i32> {
    assert!(ends_within(pidfd, 120), "the process does not end");
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).expect("wait").and_then(|status| status.exit_status())
}

fn pidfd_of_a_container(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("trap 'exit 3' USR1; echo up; while :; do sleep 0.1; done");
    let pidfd = handle(env, "create.sock", &mut create(env, &bundle), &[&bundle.id]);
    assert!(!ends_within(&pidfd, 0), "the process waits for start");
    call(env, &["start", &bundle.id]).ok();
    wait_until("output", || {
        fs::read_to_string(env.directory("files").join("create.sock.out")).is_ok_and(|t| t == "up\n")
    });
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::USR1).expect("signal");
    assert_eq!(status_of(&pidfd), Some(3));
    call(env, &["delete", &bundle.id]).ok();

    let bundle = env.bundle_named(Root::Busybox, "run").script("sleep 1; exit 4");
    bundle.save();
    let mut run = Command::new(&env.runtime);
    run.args(["run", "--detach", "--bundle"]).arg(&bundle.path);
    let pidfd = handle(env, "run.sock", &mut run, &[&bundle.id]);
    assert_eq!(status_of(&pidfd), Some(4));
    call(env, &["delete", &bundle.id]).ok();
}

fn pidfd_of_an_exec(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let mut exec = Command::new(&env.runtime);
    let pidfd = handle(env, "exec.sock", exec.args(["exec", "--detach"]), &[id, "sh", "-c", "sleep 2; exit 5"]);
    assert_eq!(status_of(&pidfd), Some(5));
    // In the foreground the process ends before the command does.
    let mut exec = Command::new(&env.runtime);
    let pidfd = handle(env, "foreground.sock", exec.arg("exec"), &[id, "true"]);
    assert!(ends_within(&pidfd, 0));
}
