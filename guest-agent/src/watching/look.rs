//! A look at what the processes of a container watch.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use super::fdinfo::{Object, watches};
use super::mounts;
use crate::container::Container;

/// What is watched, and for which events.
pub type Seen = HashMap<Object, u32>;

/// How often the agent looks.
const SECOND: Duration = Duration::from_secs(1);
/// A look takes no more than one part in so many of the time.
const SHARE: u32 = 200;
/// Processes that are looked at, and descriptors of all of them together: what a container has beyond that is not seen to watch.
const MOST_PROCESSES: usize = 4096;
const MOST_DESCRIPTORS: usize = 16_384;
/// Of the text about one instance, as much is read: some ten thousand watches.
const MOST_TEXT: u64 = 1 << 20;

/// When to look.
#[derive(Default)]
pub struct Pace {
    /// The processor time that the container had used before the last look: nobody watches anything new without using some.
    used: Option<u64>,
    took: Duration,
}

impl Pace {
    /// What is watched now, or nothing when it cannot have changed.
    pub fn look(&mut self, container: &Container) -> Option<Seen> {
        let used = container.processor_time();
        if used.is_some() && used == self.used {
            return None;
        }
        self.used = used;
        let began = Instant::now();
        let seen = look(container);
        self.took = began.elapsed();
        Some(seen)
    }

    /// How long to wait for the next look.
    pub fn pause(&self) -> Duration {
        self.took.saturating_mul(SHARE).max(SECOND)
    }
}

fn look(container: &Container) -> Seen {
    let mut seen = Seen::new();
    let mut left = MOST_DESCRIPTORS;
    for pid in container.pids(MOST_PROCESSES) {
        look_at(pid.as_raw_pid(), &mut left, &mut seen);
    }
    if !seen.is_empty() {
        // Most often it is all in the container's root, and of no interest.
        let shared = mounts::shared_devices(container.pid());
        seen.retain(|object, _| shared.contains(&object.device));
    }
    seen
}

fn look_at(pid: i32, left: &mut usize, seen: &mut Seen) {
    // A process that has ended meanwhile has none.
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let Some(rest) = left.checked_sub(1) else { return };
        *left = rest;
        if fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:inotify") {
            let mut text = String::new();
            let info = File::open(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy()));
            if info.and_then(|info| info.take(MOST_TEXT).read_to_string(&mut text)).is_ok() {
                for (object, mask) in watches(&text) {
                    *seen.entry(object).or_default() |= mask;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_watches_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let inotify = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
        let mut seen = Seen::new();
        look_at(std::process::id() as i32, &mut 1000, &mut seen);
        let before = seen.len();
        rustix::fs::inotify::add_watch(&inotify, dir.path(), rustix::fs::inotify::WatchFlags::CREATE).unwrap();
        look_at(std::process::id() as i32, &mut 1000, &mut seen);
        // Not every file system has handles.
        assert!(seen.len() <= before + 1 && seen.values().all(|mask| *mask != 0));
        let mut none = Seen::new();
        look_at(std::process::id() as i32, &mut 0, &mut none);
        assert!(none.is_empty());
        assert_eq!(Pace { used: None, took: Duration::from_millis(20) }.pause(), Duration::from_secs(4));
        assert_eq!(Pace::default().pause(), SECOND);
    }
}
