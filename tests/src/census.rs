//! What is on the machine that a container could leave behind: taken before and after each case and compared.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything found, as sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Looks at the machine now.
    pub fn take() -> Census {
        let mut found = BTreeSet::new();
        for line in read("/proc/self/mountinfo").lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if let (Some(point), Some(dash)) = (fields.get(4), fields.iter().position(|field| *field == "-")) {
                found.insert(format!("mount {} on {point}", fields.get(dash + 1).unwrap_or(&"?")));
            }
        }
        // Outside the lab others may use the machine at the same time.
        let alone = std::env::var_os("LAB").is_some();
        for line in read("/proc/net/unix").lines().skip(1) {
            if let Some(name) = line.split_whitespace().nth(7).filter(|name| alone || name.contains("/run/")) {
                found.insert(format!("socket {name}"));
            }
        }
        list("/sys/class/net", "network interface", &mut found);
        list("/run/netns", "network namespace", &mut found);
        list("/dev/shm", "file", &mut found);
        if alone {
            list("/tmp", "file", &mut found);
        }
        for directory in ["/run/sandbox", "/run/runc", "/run/crun"] {
            walk(Path::new(directory), false, &mut found);
        }
        // The answer about this machine's KVM, kept until the next boot: it is no container's.
        found.remove("file /run/sandbox/kvm-usable");
        walk(Path::new("/sys/fs/cgroup"), true, &mut found);
        Census(found)
    }

    /// The same, with processes (all but this one, by number) and what lies in these directories.
    pub fn of_machine(directories: &[PathBuf]) -> Census {
        let mut census = Census::take();
        for directory in directories {
            walk(directory, false, &mut census.0);
        }
        for Process { pid, name, arguments, .. } in descendants(1) {
            if pid != std::process::id() {
                census.0.insert(format!("process {pid} {name} {arguments}"));
            }
        }
        census
    }

    /// The sentences.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What is there now and was not before, and mounts that are gone.
    pub fn since(&self, before: &Census) -> Vec<String> {
        let left = self.0.difference(&before.0).map(|what| format!("left behind: {what}"));
        let gone = before.0.difference(&self.0).filter(|what| what.starts_with("mount "));
        left.chain(gone.map(|what| format!("gone: {what}"))).collect()
    }
}

/// A process, as /proc shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    parent: u32,
    state: String,
    name: String,
    /// Its command line.
    pub arguments: String,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let stat = read(&format!("/proc/{pid}/stat"));
        // pid (comm) state ppid …; comm may hold anything, so count from its end.
        let (head, tail) = stat.rsplit_once(')')?;
        let mut fields = tail.split_whitespace();
        let state = fields.next()?.to_owned();
        let parent = fields.next()?.parse().ok()?;
        let name = head.split_once('(').map_or("?", |(_, name)| name).to_owned();
        let arguments = read(&format!("/proc/{pid}/cmdline")).replace('\0', " ").trim().to_owned();
        Some(Process { pid, parent, state, name, arguments })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} [{}] {}", self.pid, self.name, self.state, self.arguments)
    }
}

/// Processes below this one; with a subreaper these are all that were started and not waited for.
pub fn descendants(root: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let mut below = BTreeSet::from([root]);
    let mut found = Vec::new();
    loop {
        let is_next = |process: &&Process| below.contains(&process.parent) && !below.contains(&process.pid);
        let next: Vec<Process> = all.iter().filter(is_next).cloned().collect();
        if next.is_empty() {
            return found;
        }
        below.extend(next.iter().map(|process| process.pid));
        found.extend(next);
    }
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn list(directory: &str, kind: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(format!("{kind} {}", entry.path().display()));
    }
}

fn walk(directory: &Path, directories_only: bool, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory || !directories_only {
            let kind = if directories_only { "cgroup" } else { "file" };
            found.insert(format!("{kind} {}", entry.path().display()));
        }
        if is_directory {
            walk(&entry.path(), directories_only, found);
        }
    }
}
