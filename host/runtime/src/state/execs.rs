//! The processes on the host that stand for a container's exec'd processes: a file in the state directory for each, named by its pid.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::process_id::ProcessId;

/// What the names begin with.
pub(super) const PREFIX: &str = "exec-";
/// More than any container has; what is more is not this program's.
const LIMIT: usize = 100_000;

fn directory(state: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", state.as_raw_fd()))
}

/// Keeps a process.
pub fn add(state: BorrowedFd<'_>, process: ProcessId) -> io::Result<()> {
    fs::write(directory(state).join(format!("{PREFIX}{}", process.pid)), process.start.to_string())
}

/// Forgets a process.
pub fn remove(state: BorrowedFd<'_>, pid: i32) {
    let _ = fs::remove_file(directory(state).join(format!("{PREFIX}{pid}")));
}

/// Those that are alive, in the order of their numbers. Others, which were killed, are forgotten.
pub fn list(state: BorrowedFd<'_>) -> Vec<ProcessId> {
    let mut found: Vec<ProcessId> = files(&directory(state))
        .filter_map(|path| {
            let pid = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            let process = ProcessId { pid, start: fs::read_to_string(&path).ok()?.parse().ok()? };
            if !process.is_alive() {
                let _ = fs::remove_file(&path);
                return None;
            }
            Some(process)
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The files themselves.
pub(super) fn files(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(LIMIT);
    let ours = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
    entries.filter(ours).map(|entry| entry.path()).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_dead_are_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let state = fs::File::open(root.path()).unwrap();
        let alive = ProcessId::of(std::process::id() as i32).unwrap();
        add(state.as_fd(), alive).unwrap();
        add(state.as_fd(), ProcessId { pid: 1, start: 1 << 60 }).unwrap();
        assert_eq!(list(state.as_fd()), [alive]);
        assert_eq!(files(root.path()).count(), 1);
        remove(state.as_fd(), alive.pid);
        assert!(list(state.as_fd()).is_empty());
    }
}
