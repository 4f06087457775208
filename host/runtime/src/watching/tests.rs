use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use agent_protocol::watch::event;

use super::*;
use crate::control::ReadOnly;

fn share(source: &Path, name: &str, directory: bool) -> Share {
    let source = source.canonicalize().unwrap();
    let readonly = ReadOnly::Nowhere;
    Share { source, name: name.into(), directory, recursive: true, readonly, id_map: None, overlay: None }
}

#[test]
fn only_directories_from_the_host_are_worth_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = share(dir.path(), "rootfs", true);
    let file = share(dir.path(), "mounts/0", false);
    let directory = share(dir.path(), "mounts/1", true);
    let overlay = Share { overlay: Some("lowerdir=/x".into()), ..share(dir.path(), "mounts/2", true) };
    assert_eq!(watchable(std::slice::from_ref(&root)), []);
    assert_eq!(watchable(&[root.clone(), file.clone()]), []);
    assert_eq!(watchable(&[root.clone(), file.clone(), overlay.clone()]), []);
    assert_eq!(watchable(&[root, file.clone(), overlay, directory.clone()]), [file, directory]);
}

/// A group, where this machine lets us have one.
fn group() -> Option<Arc<sys::Group>> {
    match sys::Group::new() {
        Ok(group) => Some(Arc::new(group)),
        Err(error) => {
            eprintln!("not tested: {error}");
            None
        }
    }
}

/// The events until a file `end` is made.
fn events_until_end(group: &sys::Group, marks: &Marks, directory: &Path) -> Vec<(u32, Vec<u8>, Option<Vec<u8>>)> {
    let _ = fs::remove_file(directory.join("end"));
    fs::write(directory.join("end"), "").unwrap();
    let mut buffer = vec![0; BUFFER];
    let mut seen = Vec::new();
    loop {
        let length = group.read(&mut buffer).unwrap();
        for change in events::parse(&buffer[..length]) {
            assert_eq!(change.pid, std::process::id() as i32);
            let Some(event) = marks.event(&change) else { continue };
            if event.place.name == b"end" {
                if event.mask & event::CREATE != 0 {
                    return seen;
                }
                continue;
            }
            seen.push((event.mask, event.place.name, event.to.map(|to| to.name)));
        }
    }
}

#[test]
fn changes_are_told_by_the_guests_numbers() {
    let Some(group) = group() else { return };
    let dir = tempfile::tempdir().unwrap();
    let share = share(dir.path(), "mounts/0", true);
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/file"), "old").unwrap();
    let mut marks = Marks::new(group.clone());
    if let Err(error) = marks.add(1, &share, b"a", event::REPORTED) {
        return eprintln!("not tested: {error}");
    }
    marks.add(2, &share, b"a/b", event::MOVED_TO).unwrap();
    let a = dir.path().join("a");
    fs::write(a.join("file"), "new").unwrap();
    fs::rename(a.join("file"), a.join("b/moved")).unwrap();
    fs::create_dir(a.join("made")).unwrap();
    fs::remove_dir(a.join("made")).unwrap();
    fs::rename(a.join("b/moved"), dir.path().join("out")).unwrap();
    fs::write(dir.path().join("unwatched"), "").unwrap();
    let seen = events_until_end(&group, &marks, &a);
    let name = |text: &str| text.as_bytes().to_vec();
    let of = |wanted: &str| seen.iter().filter(|e| e.1 == name(wanted)).fold(0, |mask, e| mask | e.0);
    assert_eq!(of("file") & event::MODIFY, event::MODIFY, "{seen:?}");
    assert_eq!(of("file") & event::CLOSE_WRITE, event::CLOSE_WRITE, "{seen:?}");
    let both = event::MOVED_FROM | event::MOVED_TO;
    assert!(seen.contains(&(both, name("file"), Some(name("moved")))), "{seen:?}");
    assert_eq!(of("made"), event::CREATE | event::DELETE | event::ISDIR, "{seen:?}");
    assert_eq!(of("moved") & event::MOVED_TO, 0, "{seen:?}");
    assert_eq!(of("unwatched"), 0);
    marks.remove(1);
    fs::write(a.join("later"), "").unwrap();
    marks.add(3, &share, b"a", event::CREATE).unwrap();
    let seen = events_until_end(&group, &marks, &dir.path().join("a/b/../../a"));
    assert!(seen.is_empty(), "{seen:?}");
}

#[test]
fn a_file_is_watched_by_itself() {
    let Some(group) = group() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "old").unwrap();
    let mut marks = Marks::new(group.clone());
    if let Err(error) = marks.add(5, &share(&file, "mounts/0", false), b"", event::REPORTED) {
        return eprintln!("not tested: {error}");
    }
    fs::write(&file, "new").unwrap();
    let mut buffer = vec![0; BUFFER];
    let length = group.read(&mut buffer).unwrap();
    let event = events::parse(&buffer[..length]).find_map(|change| marks.event(&change)).unwrap();
    assert_eq!((event.place.watch, event.place.name, event.mask & event::MODIFY), (5, Vec::new(), event::MODIFY));
}

#[test]
fn paths_stay_below_the_share() {
    let Some(group) = group() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    symlink("../outside", inside.join("link")).unwrap();
    let share = share(&inside, "mounts/0", true);
    let mut marks = Marks::new(group);
    for path in [b"../outside".as_slice(), b"link", b"link/x", b"/etc", b"..", b"gone"] {
        assert!(marks.add(1, &share, path, event::REPORTED).is_err(), "{}", String::from_utf8_lossy(path));
    }
    // What leads to the share itself was changed.
    fs::remove_dir_all(&inside).unwrap();
    symlink("outside", &inside).unwrap();
    assert!(marks.add(1, &share, b"", event::REPORTED).is_err());
}

#[test]
fn broken_events_are_passed_over() {
    assert_eq!(events::parse(&[]).count(), 0);
    assert_eq!(events::parse(&[0; 24]).count(), 0);
    assert_eq!(events::parse(&[255; 64]).count(), 0);
    let mut bytes = vec![0; 32];
    bytes[0] = 32;
    bytes[8] = 2;
    bytes[24..28].copy_from_slice(&[2, 0, 200, 0]);
    let changes: Vec<_> = events::parse(&bytes).collect();
    assert_eq!((changes.len(), changes[0].mask, changes[0].named.clone()), (1, event::MODIFY, None));
}
