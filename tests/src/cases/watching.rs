//! Programs that watch shared files (inotify) see what the host changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::run::Running;
use crate::{Case, Env, host};

pub(super) const CASES: &[Case] = &[
    any("watching::host_wakes_watchers", 300, host_wakes_watchers),
    any("watching::read_only_mounts_and_single_files", 300, read_only),
    any("watching::own_changes_are_told_once", 300, own_changes),
    ours("watching::who_does_not_watch_is_left_alone", 300, left_alone),
];

/// Prints each event of the paths it is given: its kind, the name, and `dir`; of a file that was closed after writing its content. Makes and
/// removes `own` when told to by a file `go`.
const WATCHER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
mask = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
kinds = {0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "from", 0x80: "to", 0x100: "create", 0x200: "delete"}
paths = {}
for path in sys.argv[1:]:
    paths[libc.inotify_add_watch(fd, path.encode(), mask)] = path
print("ready", flush=True)
while True:
    data = os.read(fd, 65536)
    while data:
        wd, bits, cookie, length = struct.unpack_from("iIII", data)
        name = data[16:16 + length].rstrip(b"\0").decode()
        data = data[16 + length:]
        path = os.path.join(paths.get(wd, ""), name).rstrip("/")
        for bit, kind in kinds.items():
            if not bits & bit:
                continue
            words = [kind, name or "itself"]
            if bits & 0x40000000:
                words.append("dir")
            if kind == "close_write":
                try:
                    words.append(open(path).read())
                except FileNotFoundError:
                    pass
            print(*words, flush=True)
            if (kind, name) == ("create", "go"):
                os.mkdir(os.path.join(paths[wd], "own"))
                os.rmdir(os.path.join(paths[wd], "own"))
"#;

fn bundle(env: &Env, volume: &Path, options: &[&str], paths: &[&str]) -> Bundle {
    let arguments: Vec<&str> = ["python3", "-c", WATCHER].into_iter().chain(paths.iter().copied()).collect();
    env.bundle(Root::Debian).bind(volume, "/volume", options).args(&arguments)
}

/// Makes names in the directory until the watcher has seen one: from then on it sees all.
fn until_seen(running: &mut Running, directory: &Path) {
    running.wait_for("ready");
    let stop = Arc::new(AtomicBool::new(false));
    let (directory, stopped) = (directory.to_owned(), stop.clone());
    let making = std::thread::spawn(move || {
        for number in 0.. {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            fs::create_dir(directory.join(format!("begin-{number}"))).expect("make");
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    while !running.line().starts_with("create begin-") {}
    stop.store(true, Ordering::Relaxed);
    making.join().expect("the thread ends");
}

/// Has the container killed, and waits for its end.
fn end(env: &Env, bundle: &Bundle, running: Running) {
    host(&env.runtime, &["kill", &bundle.id, "KILL"]);
    assert_eq!(running.finish().code(), 137);
}

fn host_wakes_watchers(env: &Env) {
    let volume = env.directory("volume");
    fs::create_dir(volume.join("sub")).expect("make");
    let bundle = bundle(env, &volume, &[], &["/volume", "/volume/sub"]);
    let mut running = env.start(&bundle);
    until_seen(&mut running, &volume);
    let file = volume.join("file");
    fs::write(&file, "aaaa").expect("write");
    running.wait_for("create file");
    running.wait_for("close_write file aaaa");
    // As long as before, so that nothing but the time tells of the change.
    fs::write(&file, "bbbb").expect("write");
    running.wait_for("modify file");
    running.wait_for("close_write file bbbb");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    running.wait_for("attrib file");
    fs::rename(&file, volume.join("renamed")).expect("rename");
    running.wait_for("from file");
    running.wait_for("to renamed");
    fs::rename(volume.join("renamed"), volume.join("sub/moved")).expect("rename");
    running.wait_for("from renamed");
    running.wait_for("to moved");
    fs::rename(volume.join("sub/moved"), env.directory("elsewhere").join("gone")).expect("rename");
    running.wait_for("from moved");
    fs::rename(env.directory("elsewhere").join("gone"), volume.join("back")).expect("rename");
    running.wait_for("to back");
    fs::remove_file(volume.join("back")).expect("remove");
    running.wait_for("delete back");
    fs::create_dir(volume.join("directory")).expect("make");
    running.wait_for("create directory dir");
    fs::remove_dir(volume.join("directory")).expect("remove");
    running.wait_for("delete directory dir");
    end(env, &bundle, running);
    assert!(volume.join("sub").is_dir() && volume.join("begin-0").is_dir(), "nothing else has changed");
}

fn read_only(env: &Env) {
    let volume = env.directory("volume");
    let single = env.file("single", "one");
    let bundle = bundle(env, &volume, &["ro"], &["/volume", "/single"]).bind(&single, "/single", &["ro"]);
    fs::write(bundle.host_path("/single"), "").expect("write");
    let mut running = env.start(&bundle);
    until_seen(&mut running, &volume);
    fs::write(volume.join("file"), "text").expect("write");
    running.wait_for("close_write file text");
    fs::write(&single, "two").expect("write");
    running.wait_for("close_write itself two");
    end(env, &bundle, running);
}

fn own_changes(env: &Env) {
    let volume = env.directory("volume");
    let bundle = bundle(env, &volume, &[], &["/volume"]);
    let mut running = env.start(&bundle);
    until_seen(&mut running, &volume);
    fs::write(volume.join("go"), "").expect("write");
    running.wait_for("create own dir");
    fs::write(volume.join("after"), "").expect("write");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "create after") {
        seen.push(running.line());
    }
    let count = |wanted: &str| seen.iter().filter(|line| *line == wanted).count();
    assert_eq!((count("create own dir"), count("delete own dir")), (0, 1), "after the first: {seen:?}");
    end(env, &bundle, running);
}

/// The container's process on the host holds what watches (fanotify) only once something is watched.
fn left_alone(env: &Env) {
    let volume = env.directory("volume");
    let watches = |bundle: &Bundle| {
        let state: Value = serde_json::from_str(&host(&env.runtime, &["state", &bundle.id])).expect("JSON");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", state["pid"])).expect("a process");
        let targets = descriptors.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("fanotify")).count()
    };
    let mut session = env.session(env.bundle_named(Root::Busybox, "idle").bind(&volume, "/volume", &[]));
    session.run("ls /volume; sleep 5");
    assert_eq!(watches(&session.bundle), 0);
    session.end();
    let watching = bundle(env, &volume, &[], &["/volume"]);
    let mut running = env.start(&watching);
    until_seen(&mut running, &volume);
    assert_eq!(watches(&watching), 1);
    end(env, &watching, running);
}
