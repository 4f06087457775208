//! Descriptors that callers hand over, and those that nobody may keep.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::lifecycle::{Created, call};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("descriptors::preserved_files", 180, preserved_files),
    any("descriptors::preserved_in_exec", 240, preserved_in_exec),
    any("descriptors::preserved_socket", 180, preserved_socket),
    ours("descriptors::no_directory_is_preserved", 60, no_directory),
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
    let arguments = ["exec", "--preserve-fds=2", id, "cat", "/proc/self/fd/4"];
    // The first of the two is not open: there is nothing to pass on.
    let mut command = through_shell(env, &format!("exec 3</dev/null; {opening}"), &arguments);
    command.stdin(Stdio::null());
    assert_eq!(outcome(command).ok(), "hello");
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
