//! State directories: made, locked, swept, removed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::process_id::ProcessId;

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

#[test]
fn id_rules() {
    for good in ["a", "A_b+c-d.e", "...", "0", &"x".repeat(255)] {
        ContainerId::new(good).unwrap();
    }
    for bad in ["", ".", "..", "a/b", "../x", "a b", "é", "a\n", "a\0", &"x".repeat(256)] {
        assert!(matches!(ContainerId::new(bad), Err(StateError::Id(_))), "{bad:?}");
    }
}

/// A process that lives as long as the test.
fn this_process() -> ProcessId {
    ProcessId::of(std::process::id() as i32).unwrap()
}

/// One that has ended: this one's number, and another start.
fn ended() -> ProcessId {
    ProcessId { start: 1, ..this_process() }
}

fn record(name: &str, proxy: ProcessId) -> Record {
    let spec = serde_json::from_value(serde_json::json!({"ociVersion": "1.0.2"})).unwrap();
    Record::new(&id(name), &spec, "/b".into(), "/b/rootfs".into(), proxy)
}

#[test]
fn directory_is_private_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("deep/root");
    let state = StateDir::create(&root, &id("c")).unwrap();
    assert_eq!(fs::metadata(root.join("c")).unwrap().permissions().mode() & 0o777, 0o700);
    let _listener = listen(state.directory()).unwrap();
    UnixStream::connect(state.socket()).unwrap();
    state.write(&record("c", this_process())).unwrap();
    state.remove().unwrap();
    assert!(fs::read_dir(&root).unwrap().next().is_none());
}

#[test]
fn what_is_kept_is_what_was_written() {
    let root = tempfile::tempdir().unwrap();
    let mut state = StateDir::create(root.path(), &id("c")).unwrap();
    assert_eq!(state.read().unwrap(), None);
    let mut kept = record("c", this_process());
    kept.status = Status::Running;
    state.write(&kept).unwrap();
    state.unlock();
    let other = StateDir::open(root.path(), &id("c")).unwrap();
    assert_eq!(other.read().unwrap().unwrap(), kept);
    assert_eq!(kept.status(), Status::Running);
    kept.proxy = ended();
    assert_eq!(kept.status(), Status::Stopped);
    assert_eq!(serde_json::to_value(kept.shown()).unwrap()["pid"], 0);
    assert!(matches!(StateDir::open(root.path(), &id("d")), Err(StateError::Unknown)));
    assert_eq!(StateDir::list(root.path()).unwrap(), [id("c")]);
}

#[test]
fn a_container_keeps_its_id_until_it_is_removed() {
    let root = tempfile::tempdir().unwrap();
    for (proxy, status) in
        [(this_process(), Status::Creating), (this_process(), Status::Running), (ended(), Status::Running)]
    {
        let state = StateDir::create(root.path(), &id("c")).unwrap();
        state.write(&Record { status, ..record("c", proxy) }).unwrap();
        let text = StateDir::create(root.path(), &id("c")).unwrap_err().to_string();
        assert_eq!(text, "container with given ID already exists");
        StateDir::create(root.path(), &id("d")).unwrap().remove().unwrap();
        state.remove().unwrap();
    }
}

#[test]
fn what_killed_commands_left_is_swept() {
    let root = tempfile::tempdir().unwrap();
    for name in ["c", "old", "attached", "stopped"] {
        let state = StateDir::create(root.path(), &id(name)).unwrap();
        let _listener = listen(state.directory()).unwrap();
        if name != "c" {
            let attached = name == "attached";
            let status = if name == "old" { Status::Creating } else { Status::Running };
            // Written after all are made, so that nobody sweeps them.
            state.write(&Record { attached, status, ..record(name, this_process()) }).unwrap();
        }
        if name == "stopped" {
            for name in ["old", "attached", "stopped"] {
                let state = StateDir::open(root.path(), &id(name)).unwrap();
                let kept = state.read().unwrap().unwrap();
                state.write(&Record { proxy: ended(), ..kept }).unwrap();
            }
        } else if name == "c" {
            // Held, so that it is not swept while the others are made.
            std::mem::forget(state);
        }
    }
    fs::create_dir(root.path().join("not-ours")).unwrap();
    fs::write(root.path().join("not-ours/lock"), "").unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    fs::create_dir(root.path().join(STAGING)).unwrap();
    fs::write(root.path().join(STAGING).join(LOCK), "").unwrap();
    let _state = StateDir::create(root.path(), &id("old")).unwrap();
    assert!(!root.path().join("attached").exists());
    assert!(root.path().join("stopped/state.json").exists() && root.path().join("c").exists());
    assert!(root.path().join("not-ours/lock").exists() && root.path().join("empty").exists());
    assert!(!root.path().join(STAGING).exists());
    StateDir::create(root.path(), &id("empty")).unwrap();
    let text = StateDir::create(root.path(), &id("not-ours")).unwrap_err().to_string();
    assert!(text.contains("not-ours: directory not empty"), "{text}");
}

#[test]
fn whoever_makes_a_container_waits_for_the_command_before() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::create(root.path(), &id("c")).unwrap();
    let (sender, receiver) = mpsc::channel();
    let path = root.path().to_path_buf();
    let other = thread::spawn(move || sender.send(StateDir::create(&path, &id("c")).is_ok()).unwrap());
    assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err(), "the lock is held");
    // The command was killed before it wrote anything.
    drop(state);
    assert!(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
    other.join().unwrap();
}

#[test]
fn a_lock_of_what_was_removed_meanwhile_is_none() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::create(root.path(), &id("c")).unwrap();
    let mut other = StateDir::open(root.path(), &id("c")).unwrap();
    state.remove().unwrap();
    assert!(matches!(other.lock(), Err(StateError::Unknown)));
}

#[test]
fn a_lock_is_not_that_of_another_container_with_the_same_id() {
    let root = tempfile::tempdir().unwrap();
    let state = StateDir::create(root.path(), &id("c")).unwrap();
    let mut other = StateDir::open(root.path(), &id("c")).unwrap();
    state.remove().unwrap();
    let _new = StateDir::create(root.path(), &id("c")).unwrap();
    assert!(matches!(other.lock(), Err(StateError::Unknown)));
    assert!(root.path().join("c").join(LOCK).exists());
}

#[test]
fn long_roots_and_ids_have_sockets() {
    let root = tempfile::tempdir().unwrap();
    let long = root.path().join("r".repeat(150));
    let state = StateDir::create(&long, &id(&"i".repeat(200))).unwrap();
    let _listener = listen(state.directory()).unwrap();
    UnixStream::connect(state.socket()).unwrap();
}

#[test]
fn impossible_root_is_named() {
    let text = StateDir::create(Path::new("/dev/null/x"), &id("c")).unwrap_err().to_string();
    assert_eq!(text, "state directory /dev/null/x: not a directory; name another with --root");
}

#[test]
fn many_at_once_get_one_id_once() {
    let root = tempfile::tempdir().unwrap();
    let make = || {
        let mut state = StateDir::create(root.path(), &id("c"))?;
        state.write(&record("c", this_process()))?;
        state.unlock();
        Ok::<_, StateError>(state)
    };
    let made: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
}
