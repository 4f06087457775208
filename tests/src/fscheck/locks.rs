//! Locks that another process sees.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Tell, create};

pub(super) fn flock(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let first = create(&path, b"x")?;
    let second = OpenOptions::new().read(true).write(true).open(&path).tell("open")?;
    let lock = |file: &File, operation| rustix::fs::flock(file, operation);
    lock(&first, FlockOperation::LockExclusive).tell("lock")?;
    same!("a second lock", lock(&second, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    same!("a second shared lock", lock(&second, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    same!("of another process", child("flock", &path)?, Some(1));
    lock(&first, FlockOperation::LockShared).tell("downgrade")?;
    lock(&second, FlockOperation::NonBlockingLockShared).tell("share")?;
    lock(&second, FlockOperation::Unlock).tell("unlock")?;
    drop(first);
    same!("after closing", child("flock", &path)?, Some(0));
    Ok(())
}

pub(super) fn fcntl_locks(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"0123456789")?;
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).tell("lock")?;
    same!("of another process", child("fcntl", &path)?, Some(1));
    // A waiting process gets the lock when it is given up.
    let mut waiting = probe(&["lock", "fcntl-wait"]).arg(&path).spawn().tell("spawn")?;
    std::thread::sleep(Duration::from_millis(300));
    same!("a waiting process", waiting.try_wait().tell("wait")?.is_none(), true);
    rustix::fs::fcntl_lock(&file, FlockOperation::Unlock).tell("unlock")?;
    same!("a waiting process ends with", waiting.wait().tell("wait")?.code(), Some(0));
    // Any close of the file gives the process's locks up.
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).tell("lock")?;
    drop(File::open(&path).tell("open")?);
    same!("after another descriptor's close", child("fcntl", &path)?, Some(0));
    Ok(())
}

/// The other process of the lock checks: 0 when it got the lock, 1 when someone else has it.
pub fn try_lock(kind: &str, path: &Path) -> Result<u8, String> {
    let file = OpenOptions::new().read(true).write(true).open(path).tell("open")?;
    let result = match kind {
        "flock" => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive),
        "fcntl" => rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive),
        "fcntl-wait" => rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive),
        _ => return Err(format!("unknown lock '{kind}'")),
    };
    match result {
        Ok(()) => Ok(0),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(1),
        Err(error) => Err(error.to_string()),
    }
}

fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments);
    command
}

fn child(kind: &str, path: &Path) -> Result<Option<i32>, String> {
    probe(&["lock", kind]).arg(path).status().map(|status| status.code()).tell("spawn")
}
