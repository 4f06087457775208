//! Bad input and broken machines: one clear sentence, exit status 1, and nothing left behind (the runner looks).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::json;

use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::{Outcome, outcome};
use crate::{Case, Env, census};

pub(super) const CASES: &[Case] = &[
    any("bad::no_config", 60, no_config),
    any("bad::broken_json", 60, broken_json),
    ours("bad::wrong_types_and_missing_fields", 60, wrong_types),
    ours("bad::unsupported_fields_are_named", 60, unsupported_fields),
    any("bad::missing_rootfs", 60, missing_rootfs),
    any("bad::command_not_found", 180, command_not_found),
    any("bad::command_not_executable", 180, command_not_executable),
    any("bad::working_directory_cannot_be_made", 120, bad_directory),
    any("bad::mount_source_missing", 120, mount_source_missing),
    any("bad::id", 60, bad_id),
    any("bad::duplicate_id", 180, duplicate_id),
    ours("bad::no_kvm", 60, no_kvm),
    ours("bad::no_permission_for_kvm", 60, no_permission),
    ours("bad::kvm_that_is_not_kvm", 60, not_kvm),
    ours("bad::kernel", 60, kernel),
    ours("bad::initramfs", 60, initramfs),
    ours("bad::too_little_memory", 60, too_little_memory),
    ours("bad::kernel_that_does_nothing", 240, kernel_that_does_nothing),
    ours("bad::guest_panic_shows_the_console", 240, guest_panic),
    ours("bad::monitor_killed", 240, monitor_killed),
    ours("bad::monitor_killed_during_the_start", 240, monitor_killed_early),
    ours("bad::run_killed", 300, run_killed),
    ours("bad::agent_crash", 240, agent_crash),
    any("bad::arguments", 60, arguments),
];

/// One sentence on standard error that holds these words, nothing on standard output, exit status 1.
fn refused(env: &Env, outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    // runc's log format puts a backslash before each quote.
    let stderr = outcome.stderr.replace('\\', "");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {:?}", outcome.stderr);
    }
    if !env.is_runc() {
        assert!(outcome.stderr.starts_with("sandbox: "), "{:?}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{:?}", outcome.stderr);
        for noise in ["os error", "panicked at", "backtrace", "Err(", "Some("] {
            assert!(!outcome.stderr.contains(noise), "{:?}", outcome.stderr);
        }
    }
}

fn run_text(env: &Env, bundle: &Bundle, config: &str) -> Outcome {
    let command = env.command(bundle);
    fs::write(bundle.path.join("config.json"), config).expect("write");
    outcome(command)
}

fn no_config(env: &Env) {
    let bundle = env.empty_bundle();
    let command = env.command(&bundle);
    fs::remove_file(bundle.path.join("config.json")).expect("remove");
    refused(env, &outcome(command), &["config.json"]);
    let mut command = Command::new(&env.runtime);
    command.args(["run", "-b", "/no/such/bundle", "some-id"]);
    refused(env, &outcome(command), &["/no/such/bundle"]);
}

fn broken_json(env: &Env) {
    let bundle = env.empty_bundle();
    for (text, place) in [
        ("{\n  \"ociVersion\": \"1.0.2\",\n  \"process\": {,}\n}", (3, 15)),
        ("", (1, 0)),
        ("{\"ociVersion\": \"1.0.2\"", (1, 22)),
        ("not json", (1, 2)),
    ] {
        let outcome = run_text(env, &bundle, text);
        refused(env, &outcome, &[]);
        if !env.is_runc() {
            let place = format!("config.json, line {}, column {}", place.0, place.1);
            assert!(outcome.stderr.contains(&place), "no {place:?} in {:?}", outcome.stderr);
        }
    }
}

fn wrong_types(env: &Env) {
    let bundle = env.empty_bundle();
    for (text, words) in [
        ("[]", &["config.json"][..]),
        ("{\"ociVersion\": 1}", &["line 1"]),
        ("{\"ociVersion\": \"9.0.0\"}", &["9.0.0", "config.json"]),
        ("{\"ociVersion\": \"1.0.2\"}", &["missing in config.json"]),
        (
            "{\"ociVersion\": \"1.0.2\", \"root\": {\"path\": \"rootfs\"}, \"process\": {\"cwd\": \"/\", \"user\": {\"uid\": 0, \"gid\": 0}, \"args\": []}}",
            &["args"],
        ),
        (
            "{\"ociVersion\": \"1.0.2\", \"root\": {\"path\": \"rootfs\"}, \"process\": {\"cwd\": \"relative\", \"user\": {\"uid\": 0, \"gid\": 0}, \"args\": [\"x\"]}}",
            &["cwd"],
        ),
    ] {
        refused(env, &run_text(env, &bundle, text), words);
    }
}

/// Nothing is silently ignored: what is not done is refused by its name.
fn unsupported_fields(env: &Env) {
    for (pointer, value, word) in [
        ("/linux/intelRdt", json!({ "closID": "x" }), "intelRdt"),
        ("/linux/resources", json!({ "network": { "classID": 10 } }), "linux.resources.network.classID"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "linux.seccomp.defaultAction"),
    ] {
        let bundle = env.bundle(Root::Busybox).set(pointer, value);
        refused(env, &env.run(&bundle), &[word]);
    }
}

fn missing_rootfs(env: &Env) {
    let bundle = env.empty_bundle().set("/root/path", json!("nowhere"));
    refused(env, &env.run(&bundle), &["nowhere"]);
    if !env.is_runc() {
        fs::write(bundle.path.join("a-file"), "").expect("write");
        let bundle = bundle.set("/root/path", json!("a-file"));
        refused(env, &env.run(&bundle), &["a-file"]);
    }
}

/// runc's words: docker turns them into 127 and 126.
fn command_not_found(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox);
    bundle = bundle.args(&["no-such-program"]);
    refused(env, &env.run(&bundle), &["exec: \"no-such-program\": executable file not found in $PATH"]);
    bundle = bundle.args(&["/no/such/program"]);
    refused(env, &env.run(&bundle), &["/no/such/program", "no such file or directory"]);
    // A script whose interpreter is not there.
    let script = bundle.host_path("/bin/script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle = bundle.args(&["/bin/script"]);
    refused(env, &env.run(&bundle), &["no such file or directory"]);
}

fn command_not_executable(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox);
    fs::write(bundle.host_path("/text"), "echo no\n").expect("write");
    bundle = bundle.args(&["/text"]);
    refused(env, &env.run(&bundle), &["permission denied"]);
    bundle = bundle.args(&["/bin"]);
    refused(env, &env.run(&bundle), &["/bin"]);
    // Executable, but no program.
    fs::set_permissions(bundle.host_path("/text"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(bundle.host_path("/text"), [0u8; 64]).expect("write");
    bundle = bundle.args(&["/text"]);
    refused(env, &env.run(&bundle), &["exec format error"]);
}

fn bad_directory(env: &Env) {
    let bundle = env.bundle(Root::Busybox).set("/process/cwd", json!("/etc-file/sub")).args(&["true"]);
    fs::write(bundle.host_path("/etc-file"), "").expect("write");
    refused(env, &env.run(&bundle), &["/etc-file", "not a directory"]);
}

fn mount_source_missing(env: &Env) {
    let bundle = env.bundle(Root::Busybox).bind(Path::new("/no/such/source"), "/mnt", &[]);
    refused(env, &env.run(&bundle), &["/no/such/source"]);
}

fn bad_id(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox);
    for id in ["a/b", "..", "../x", "/abs", "with space", ""] {
        bundle.id = id.to_owned();
        let outcome = env.run(&bundle);
        // runc takes "." and ".." too far, but never runs them.
        assert_eq!(outcome.code(), 1, "{id:?}: {outcome:?}");
        if !env.is_runc() {
            refused(env, &outcome, &["id"]);
        }
    }
    if !env.is_runc() {
        bundle.id = "x".repeat(2000);
        refused(env, &env.run(&bundle), &["id"]);
    }
}

fn duplicate_id(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("echo ready; cat; echo still fine");
    let mut running = env.start(&bundle);
    running.expect("ready");
    let outcome = env.run(&bundle);
    // Nothing of the second container may have started, and the first is as it was.
    refused(env, &outcome, &[if env.is_runc() { "exist" } else { "already exists" }]);
    running.close_stdin();
    running.expect("still fine");
    assert_eq!(running.finish().code(), 0);
}

/// Runs `sandbox` with the machine changed by a shell script, in a mount namespace of its own.
fn on_changed_machine(env: &Env, bundle: &Bundle, change: &str) -> Outcome {
    let original = env.command(bundle);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{change} && exec \"$@\""), "sh"]);
    command.arg(original.get_program()).args(original.get_args());
    outcome(command)
}

fn no_kvm(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    let empty = env.directory("empty-dev");
    let change = format!("mount --bind {} /dev", empty.display());
    refused(env, &on_changed_machine(env, &bundle, &change), &["/dev/kvm"]);
}

fn no_permission(env: &Env) {
    // Nobody may not read what root owns: the files are made readable on the way.
    let bundle = env.bundle(Root::Busybox);
    let original = env.command(&bundle);
    let state = env.directory("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("chmod");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(original.get_program()).arg("--root").arg(&state).args(original.get_args());
    let result = outcome(command);
    refused(env, &result, &["/dev/kvm"]);
    assert!(result.stderr.contains("permission"), "{result:?}");
}

fn not_kvm(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    let result = on_changed_machine(env, &bundle, "mount --bind /dev/null /dev/kvm");
    refused(env, &result, &["/dev/kvm"]);
}

fn with(env: &Env, bundle: &Bundle, variable: &str, value: &Path) -> Outcome {
    let mut command = env.command(bundle);
    command.env(variable, value);
    outcome(command)
}

fn kernel(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    refused(env, &with(env, &bundle, "SANDBOX_KERNEL", Path::new("/no/such/vmlinux")), &["kernel", "/no/such/vmlinux"]);
    for (name, content) in [
        ("empty", &b""[..]),
        ("text", b"this is not a kernel\n"),
        ("short", b"\x7fELF\x02\x01\x01"),
        ("zeros", &[0; 8192]),
    ] {
        let file = env.file(name, content);
        refused(env, &with(env, &bundle, "SANDBOX_KERNEL", &file), &["kernel", name]);
    }
    // An ELF file that is a program and no kernel.
    refused(env, &with(env, &bundle, "SANDBOX_KERNEL", &env.probe), &["kernel"]);
    refused(env, &with(env, &bundle, "SANDBOX_KERNEL", Path::new("/")), &["kernel"]);
}

fn initramfs(env: &Env) {
    let bundle = env.bundle(Root::Busybox);
    refused(
        env,
        &with(env, &bundle, "SANDBOX_INITRAMFS", Path::new("/no/such/initramfs")),
        &["initramfs", "/no/such/initramfs"],
    );
    for (name, content) in [("empty", &b""[..]), ("text", b"this is not an archive\n")] {
        let file = env.file(name, content);
        refused(env, &with(env, &bundle, "SANDBOX_INITRAMFS", &file), &["initramfs", name]);
    }
}

fn too_little_memory(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox);
    for size in ["0", "1", "16", "63"] {
        bundle = bundle.set("/annotations", json!({ "io.sandbox.memory_mib": size }));
        refused(env, &env.run(&bundle), &["memory"]);
    }
    for (name, value) in
        [("memory_mib", "much"), ("memory_mib", "-1"), ("vcpus", "0"), ("vcpus", "1000"), ("vcpus", "two")]
    {
        let name = format!("io.sandbox.{name}");
        bundle = bundle.set("/annotations", json!({ &name: value }));
        refused(env, &env.run(&bundle), &[&name, value]);
    }
}

/// A kernel cut short: the guest cannot start, and the start does not hang.
fn kernel_that_does_nothing(env: &Env) {
    let path = std::env::var_os("SANDBOX_KERNEL").expect("SANDBOX_KERNEL");
    let mut content = fs::read(path).expect("read the kernel");
    // Everything behind the first page of each segment becomes zeros: valid to load, nothing to run.
    content[8192..].fill(0);
    let file = env.file("vmlinux", &content);
    let bundle = env.bundle(Root::Busybox);
    let outcome = with(env, &bundle, "SANDBOX_KERNEL", &file);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(outcome.stderr.starts_with("sandbox: "), "{outcome:?}");
}

/// An archive with one program: newc, as the kernel reads it.
fn cpio(name: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, (name, mode, content)) in
        [(name, 0o100_755, content), ("TRAILER!!!", 0, &b""[..])].into_iter().enumerate()
    {
        let fields = [inode, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        out.extend(b"070701");
        out.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// An /init that ends at once makes the kernel panic: its last words are shown.
fn guest_panic(env: &Env) {
    let program = fs::read(&env.probe).expect("read the test program");
    let file = env.file("initramfs.cpio", cpio("init", &program));
    let bundle = env.bundle(Root::Busybox);
    let outcome = with(env, &bundle, "SANDBOX_INITRAMFS", &file);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    for words in ["sandbox: ", "panic", "Attempted to kill init"] {
        assert!(outcome.stderr.contains(words), "no {words:?} in {:?}", outcome.stderr);
    }
    // No /init at all: the kernel looks for other ones and gives up.
    let file = env.file("empty.cpio", cpio("nothing", b""));
    let outcome = with(env, &bundle, "SANDBOX_INITRAMFS", &file);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("panic"), "{outcome:?}");
}

fn monitor(run: &std::process::Child, id: &str) -> Option<Pid> {
    let title = format!("sandbox: {id}");
    census::descendants(run.id())
        .into_iter()
        .find(|process| process.arguments.contains(&title))
        .and_then(|process| Pid::from_raw(process.pid as i32))
}

fn monitor_killed(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("echo ready; exec sleep 1000");
    let mut running = env.start(&bundle);
    running.expect("ready");
    let pid = monitor(&running.child, &bundle.id).expect("a process with the monitor's title");
    rustix::process::kill_process(pid, Signal::KILL).expect("kill");
    refused(env, &running.finish(), &["monitor", "killed"]);
}

fn monitor_killed_early(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("exec sleep 1000");
    for delay in [0, 100, 400] {
        let running = env.start(&bundle);
        let pid = loop {
            if let Some(pid) = monitor(&running.child, &bundle.id) {
                break pid;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        std::thread::sleep(Duration::from_millis(delay));
        rustix::process::kill_process(pid, Signal::KILL).expect("kill");
        refused(env, &running.finish(), &["monitor"]);
    }
}

/// When `sandbox run` is killed its VM ends with it, and the next run takes the rest away.
fn run_killed(env: &Env) {
    let mut bundle = env.bundle(Root::Busybox).script("echo ready; exec sleep 1000");
    for _ in 0..2 {
        let mut running = env.start(&bundle);
        running.expect("ready");
        let pid = monitor(&running.child, &bundle.id).expect("a process with the monitor's title");
        running.signal(Signal::KILL);
        running.ends_within(Duration::from_secs(5)).expect("killed");
        let start = std::time::Instant::now();
        while rustix::process::test_kill_process(pid).is_ok()
            && Path::new(&format!("/proc/{}/exe", pid.as_raw_nonzero())).read_link().is_ok()
        {
            assert!(start.elapsed() < Duration::from_secs(5), "the monitor lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // The same ID is free again.
    bundle = bundle.script("echo again");
    assert_eq!(env.run(&bundle).ok(), "again");
}

/// A container that shares the guest's pid namespace and may trace overwrites the agent's code: its guest ends, and only that.
fn agent_crash(env: &Env) {
    let script = "import re, sys
print('ready', flush=True)
maps = open('/proc/1/maps').read()
with open('/proc/1/mem', 'r+b', 0) as memory:
    for start, end in re.findall('^([0-9a-f]+)-([0-9a-f]+) r-xp', maps, re.M):
        if int(start, 16) < 1 << 47:
            memory.seek(int(start, 16))
            memory.write(b'\\x0f\\x0b' * ((int(end, 16) - int(start, 16)) // 2))
# The agent sleeps; output wakes it up.
print('lost', flush=True)
import time
time.sleep(1000)";
    let bundle = env.bundle(Root::Debian).privileged().without_namespace("pid").args(&["python3", "-c", script]);
    let outcome = env.run(&bundle);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, "ready\n"), "{outcome:?}");
    assert!(outcome.stderr.starts_with("sandbox: "), "{outcome:?}");
    assert!(outcome.stderr.contains("agent") || outcome.stderr.contains("panic"), "{outcome:?}");
}

fn arguments(env: &Env) {
    for (arguments, word) in [
        (&["run"][..], "ID"),
        (&["run", "--no-such-option", "x"], "--no-such-option"),
        (&["no-such-command"], "no-such-command"),
        (&["kill", "--signal"], "--signal"),
    ] {
        let mut command = Command::new(&env.runtime);
        command.args(arguments);
        let outcome = outcome(command);
        assert!(!outcome.status.success(), "{arguments:?}: {outcome:?}");
        if !env.is_runc() {
            assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, ""), "{arguments:?}: {outcome:?}");
            assert!(outcome.stderr.contains(word), "{arguments:?}: no {word:?} in {outcome:?}");
        }
    }
}
