//! Whose turn it is to decide in which micro-VM a container lives. Two that are made at the same moment in one given network namespace
//! would not see each other, and each take it for a micro-VM of its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, fstatfs};
use rustix::io::retry_on_intr;

/// How long another container's `create` is waited for. Whoever can open the namespace's file can lock it, so there is an end.
const LIMIT: Duration = Duration::from_secs(60);
/// linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The turn, until it is dropped: a lock on the namespace itself (flock(2)), which nobody has to clean up.
#[derive(Debug)]
pub struct Turn {
    _namespace: File,
}

impl Turn {
    /// Waits for the turn at the namespace that a path stands for. Nothing where there is none, which an error will say later, or where
    /// it does not come: then that of two containers which finds the other's tap is refused.
    pub fn at(path: &Path) -> Option<Self> {
        let turn = Self::within(path, LIMIT);
        turn.inspect_err(|error| log::warn!("cannot wait for other containers in {}: {error}", path.display())).ok()
    }

    fn within(path: &Path, limit: Duration) -> io::Result<Self> {
        // A path to something else must not keep anybody waiting for who opens its other end.
        let namespace = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if fstatfs(&namespace)?.f_type != NSFS_MAGIC {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match flock(&namespace, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self { _namespace: namespace }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        log::debug!("another container is being made in {}", path.display());
        let (sender, turns) = mpsc::channel();
        // It outlives a wait that is given up; what it gets then it lets go at once.
        thread::Builder::new().name("turn".to_string()).spawn(move || {
            let locked = retry_on_intr(|| flock(&namespace, FlockOperation::LockExclusive));
            let _ = sender.send(locked.map(|()| Self { _namespace: namespace }));
        })?;
        let turn = turns.recv_timeout(limit).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        Ok(turn?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other() {
        let tested = thread::spawn(|| {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let path = Path::new("/proc/thread-self/ns/net");
            let first = Turn::within(path, LIMIT).unwrap();
            let late = Turn::within(path, Duration::from_millis(10)).unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
            let (sender, opened) = mpsc::channel();
            let second = std::fs::canonicalize("/proc/thread-self").unwrap().join("ns/net");
            let waiting = thread::spawn(move || {
                sender.send(()).unwrap();
                Turn::within(&second, LIMIT).map(drop)
            });
            opened.recv().unwrap();
            drop(first);
            waiting.join().unwrap().unwrap();
        });
        tested.join().unwrap();
    }

    #[test]
    fn only_namespaces_have_turns() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Turn::at(directory.path()).is_none());
        assert!(Turn::at(&directory.path().join("none")).is_none());
    }
}
