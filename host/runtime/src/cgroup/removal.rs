//! The end of a cgroup: its directory goes once its last process has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::CgroupError;
use super::hierarchy::read;
use crate::process_id::{DEATH_TIMEOUT, ProcessId};

/// A process that has left is counted for a moment still, and no event tells of the end of that.
const PAUSE: Duration = Duration::from_millis(5);
/// No more levels below a container's cgroup are looked at: this program makes one.
const DEPTH: usize = 4;

/// Removes a cgroup and those below; waits for its processes to end, of which it kills none.
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + DEATH_TIMEOUT;
    loop {
        match remove_tree(path, DEPTH) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(source) => return Err(CgroupError::Remove { path: path.to_owned(), source }),
        }
        if Instant::now() >= deadline {
            return Err(CgroupError::Busy { path: path.to_owned(), processes: processes(path).len() });
        }
        wait_for_one(path, deadline);
    }
}

/// Removes it if nothing is in it.
pub fn remove_if_empty(path: &Path) {
    let _ = fs::remove_dir(path);
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    if depth > 0 {
        children(path).iter().try_for_each(|child| remove_tree(child, depth - 1))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Those of a cgroup and of the ones below it.
pub fn processes(path: &Path) -> Vec<Pid> {
    processes_to(path, DEPTH)
}

fn processes_to(path: &Path, depth: usize) -> Vec<Pid> {
    let text = read(path, "cgroup.procs").unwrap_or_default();
    let mut found: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    if depth > 0 {
        found.extend(children(path).iter().flat_map(|child| processes_to(child, depth - 1)));
    }
    found
}

/// Until one of its processes ends, or for a moment where none can be seen.
fn wait_for_one(path: &Path, deadline: Instant) {
    let found = processes(path).into_iter().find_map(|pid| ProcessId::of(pid.as_raw_nonzero().get())?.open());
    let Some(process) = found else { return thread::sleep(PAUSE) };
    let begun = Instant::now();
    process.wait(deadline.saturating_duration_since(begun));
    if begun.elapsed() < PAUSE {
        thread::sleep(PAUSE); // it has ended and is listed still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_ones_go_and_missing_ones_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/leaf");
        fs::create_dir_all(leaf.join("child")).unwrap();
        remove(&leaf).unwrap();
        assert!(!leaf.exists() && root.path().join("a").exists());
        remove(&leaf).unwrap();
        fs::create_dir(&leaf).unwrap();
        fs::write(leaf.join("file"), "").unwrap();
        assert!(matches!(remove(&leaf), Err(CgroupError::Remove { .. })));
        remove_if_empty(&leaf);
        assert!(leaf.exists());
    }

    #[test]
    fn processes_of_children_count() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("child")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "1\n0\n").unwrap();
        fs::write(root.path().join("child/cgroup.procs"), "2\n").unwrap();
        let pids: Vec<i32> = processes(root.path()).iter().map(|p| p.as_raw_nonzero().get()).collect();
        assert_eq!(pids, [1, 2]);
    }
}
