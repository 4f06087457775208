use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use super::*;

fn hooks(list: Value) -> Vec<Hook> {
    serde_json::from_value(list).unwrap()
}

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

fn run(hook: Value, state: &[u8]) -> Result<(), HookError> {
    run_all(Phase::CreateRuntime, &hooks(json!([hook])), state, Surroundings::default())
}

fn network(network: std::os::fd::BorrowedFd<'_>) -> Surroundings<'_> {
    Surroundings { network: Some(network), ..Surroundings::default() }
}

#[test]
fn a_hook_runs_in_the_bundle_if_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    let list = hooks(json!([shell(&format!("[ \"$(pwd -P)\" = '{}' ]", path.display()))]));
    run_all(Phase::Prestart, &list, b"", Surroundings::at(&path)).unwrap();
    let list = hooks(json!([shell("exit 0")]));
    run_all(Phase::Poststart, &list, b"", Surroundings::at(&path.join("gone"))).unwrap();
}

#[test]
fn what_hooks_say_of_their_time_is_added() {
    let list = hooks(json!([{"path": "/a", "timeout": 100}, {"path": "/b"}, {"path": "/c", "timeout": 7}]));
    assert_eq!((seconds(&list), seconds(&[])), (107, 0));
    let long = hooks(
        json!([{"path": "/a", "timeout": i64::MAX}, {"path": "/b", "timeout": i64::MAX}, {"path": "/c", "timeout": 9}]),
    );
    assert_eq!(seconds(&long), u64::MAX);
}

#[test]
fn state_arguments_and_environment_arrive() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let script = "cat > \"$OUT\"; echo >> \"$OUT\"; echo \"$0\" \"$@\" >> \"$OUT\"; tr '\\0' '\\n' < /proc/$$/environ >> \"$OUT\"; head -c 20 /proc/$$/cmdline | tr '\\0' ' ' >> \"$OUT\"";
    let hook = json!({
        "path": "/bin/sh",
        "args": ["another name", "-c", script, "zero", "one", ""],
        "env": [format!("OUT={}", out.display()), "PATH=/bin:/usr/bin", "A=b=c"],
    });
    run(hook, b"{\"id\":\"c1\"}").unwrap();
    let text = fs::read_to_string(out).unwrap();
    assert!(text.starts_with("{\"id\":\"c1\"}\nzero one \n"), "{text}");
    assert!(text.contains("A=b=c\n") && text.contains("another name "), "{text}");
    assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
}

#[test]
fn without_env_the_commands_environment_is_there() {
    let path = std::env::var("PATH").unwrap();
    let script = |test: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", test]});
    run(script(&format!("[ \"$PATH\" = '{path}' ]")), b"").unwrap();
    let mut empty = script("read -r all </proc/$$/environ; [ -z \"$all\" ]");
    run(empty.clone(), b"").unwrap_err();
    empty["env"] = json!([]);
    run(empty, b"").unwrap();
    run(json!({"path": "/bin/true"}), b"{}").unwrap();
}

#[test]
fn hooks_have_neither_blocked_signals_nor_others_descriptors() {
    let held = std::thread::spawn(|| {
        crate::sys::block_signals(&[libc::SIGTERM, libc::SIGALRM]).unwrap();
        run(shell("grep -qx 'SigBlk:[[:space:]]*0*' /proc/self/status"), b"").unwrap();
    });
    held.join().unwrap();
    let (_other, leak) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    crate::sys::close_on_exec();
    let number = std::os::fd::AsRawFd::as_raw_fd(&leak);
    run(shell(&format!("[ ! -e /proc/self/fd/{number} ]")), b"").unwrap();
}

#[test]
fn failures_are_told_in_one_line() {
    let text = run(shell("echo said; echo why >&2; echo more >&2; exit 3"), b"").unwrap_err().to_string();
    assert_eq!(
        text,
        "error running hook #0: createRuntime hook /bin/sh: exit status 3, stdout: said, stderr: why more"
    );
    let text = run(shell("kill -9 $$"), b"").unwrap_err().to_string();
    assert!(text.contains(": signal: killed, "), "{text}");
    let text = run(json!({"path": "/none/such"}), b"").unwrap_err().to_string();
    assert!(text.ends_with("hook /none/such: cannot start it: no such file or directory"), "{text}");
}

#[test]
fn the_first_failure_ends_the_phase_but_poststop() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let list = hooks(json!([shell("exit 1"), shell(&format!(": > {}", mark.display()))]));
    for phase in Phase::ALL {
        let result = run_all(phase, &list, b"", Surroundings::default());
        assert_eq!((result.is_ok(), mark.exists()), (phase == Phase::Poststop, phase == Phase::Poststop), "{phase}");
    }
    let list = hooks(json!([shell("true"), shell("exit 1")]));
    assert_eq!(run_all(Phase::Poststart, &list, b"", Surroundings::default()).unwrap_err().index, 1);
}

#[test]
fn a_timeout_ends_the_hook_and_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let mut hook = shell(&format!("sleep 300 & echo $! > {}; trap '' TERM; wait", pid.display()));
    hook["timeout"] = json!(1);
    let begin = Instant::now();
    let text = run(hook, b"").unwrap_err().to_string();
    assert!(text.ends_with("hook ran past specified timeout of 1.0s"), "{text}");
    assert!((1..60).contains(&begin.elapsed().as_secs()));
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    // It was killed, and may take its time to die.
    if let Ok(orphan) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&orphan, PollFlags::IN)], Some(&limit)), Ok(1));
    }
}

#[test]
fn nothing_holds_it_up() {
    // More than a pipe holds, and nobody reads it.
    let large = vec![b' '; 1 << 20];
    run(shell("exec <&-; exit 0"), &large).unwrap();
    run(shell("exit 0"), &large).unwrap();
    // Output without end, of which the end is shown.
    let text = run(shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1"), &large).unwrap_err();
    let text = text.to_string();
    assert!(text.ends_with("xxxxlast") && text.len() < 4000, "{} bytes", text.len());
    // A child left behind that holds the streams.
    let begin = Instant::now();
    run(shell("sleep 60 & exit 0"), b"").unwrap();
    run(shell("sleep 60 & exit 1"), b"").unwrap_err();
    assert!(begin.elapsed().as_secs() < 30);
}

#[test]
fn the_whole_state_arrives() {
    let state = vec![b'x'; 300_000];
    run(shell("sleep 0.2; [ $(wc -c) = 300000 ]"), &state).unwrap();
}

#[test]
fn a_network_namespace_is_entered() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let path = "/proc/thread-self/ns/net";
    let own = fs::read_link(path).unwrap();
    let (namespace, name) = thread::spawn(move || {
        #[allow(deprecated)] // for flags that share memory or descriptors differently; this is none of them
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        (fs::File::open(path).unwrap(), fs::read_link(path).unwrap())
    })
    .join()
    .unwrap();
    assert_ne!(own, name);
    let hook = shell(&format!("[ \"$(readlink /proc/self/ns/net)\" = '{}' ]", name.display()));
    run_all(Phase::CreateContainer, &hooks(json!([hook])), b"", network(namespace.as_fd())).unwrap();
    assert_eq!(fs::read_link(path).unwrap(), own);
    let file = fs::File::open("/dev/null").unwrap();
    let error = run_all(Phase::CreateContainer, &hooks(json!([hook])), b"", network(file.as_fd())).unwrap_err();
    assert!(error.to_string().contains("cannot enter the container's network namespace"), "{error}");
}

#[test]
fn a_hook_of_the_root_runs_in_the_guest() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let bin = root.join("usr/bin");
    fs::create_dir_all(&bin).unwrap();
    let program = |path: &Path, mode| {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    program(&bin.join("hook"), 0o755);
    program(&bin.join("data"), 0o644);
    program(&directory.path().join("outside"), 0o755);
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink("/usr/bin/hook", root.join("absolute")).unwrap();
    symlink("../outside", root.join("escape")).unwrap();
    symlink(directory.path().join("outside"), root.join("host")).unwrap();
    let place = |path: &str| in_guest(&hooks(json!([{"path": path}]))[0], &root);
    for path in ["/usr/bin/hook", "/bin/hook", "/absolute", "/../usr/bin/hook"] {
        assert!(place(path), "{path}");
    }
    for path in ["/usr/bin/data", "/usr/bin", "/none", "/escape", "/host", "/../outside", "/bin/sh"] {
        assert!(!place(path), "{path}");
    }
    assert!(!in_guest(&hooks(json!([{"path": "/bin/true"}]))[0], Path::new("/nonexistent")));
}
