//! The container's cgroup (v2): its place, its limits, its end.

mod device_program;
pub mod path;
mod resources;
mod stats;
mod update;
mod watch;

use agent_protocol::Plain;
use agent_protocol::cgroup as convert;
use agent_protocol::stats::Stats;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxResources};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use crate::sys;
pub use watch::EventFile;

/// Where the agent mounts the hierarchy.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The cgroup that all containers' are in: what they use together is seen and limited there.
pub const CONTAINERS: &str = "/sys/fs/cgroup/containers";

/// The container may make cgroups below its own; deeper ones are left alone.
const MAX_DEPTH: usize = 64;

/// More cgroups below the container's are not looked into.
const MAX_BELOW: usize = 10_000;

/// Processes freeze when they next leave the kernel; one in uninterruptible sleep may be long in coming.
const FREEZE_TIME: Duration = Duration::from_secs(10);

/// Killed processes give their memory back first.
const EMPTY_TIME: Duration = Duration::from_secs(10);

/// A cgroup that could not be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// linux.cgroupsPath means nothing.
    #[error("config.json: linux.cgroupsPath: {0}")]
    Path(&'static str),
    /// A value that the guest's cgroups do not have.
    #[error("linux.resources.{field}: {problem}")]
    Resource {
        /// As in the specification.
        field: String,
        /// One clause.
        problem: String,
    },
    /// The directory.
    #[error("cannot create the cgroup {path}: {}", Plain(source))]
    Create {
        /// Below the root of the hierarchy.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// One of the cgroup's files.
    #[error("cannot set the cgroup's {file} to {value:?}: {}", Plain(source))]
    Write {
        /// File name.
        file: String,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A cgroup that a process is to be in. The order of the words is runc's, where suites look for some of them.
    #[error("cannot start the process: adding pid of it to cgroups: {}/cgroup.procs: {}", .path.display(), Plain(source))]
    Join {
        /// In the guest.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A path that leads out of the container's cgroup.
    #[error("--cgroup: {0} is not a sub cgroup path: it must lie below the container's")]
    Outside(String),
    /// Not all processes could be frozen.
    #[error("cannot freeze the container: {}", Plain(.0))]
    Freeze(io::Error),
    /// A container's user was to have it.
    #[error("cannot give the cgroup to the container's user: {}", Plain(.0))]
    Owner(io::Error),
    /// The program that decides over devices.
    #[error("cannot apply linux.resources.devices: {}", Plain(.0))]
    Devices(io::Error),
}

/// A cgroup that holds one container.
pub struct Cgroup {
    path: PathBuf,
    /// The program that decides over devices.
    devices: Mutex<Option<OwnedFd>>,
}

impl Cgroup {
    /// Makes the cgroup and applies the limits; on failure nothing stays. The descriptor is for CLONE_INTO_CGROUP.
    pub fn create(container_id: &str, linux: Option<&Linux>) -> Result<(Cgroup, OwnedFd), Error> {
        let given = linux.and_then(|l| l.cgroups_path().as_deref());
        let relative = path::of(given, container_id)?;
        let path = Path::new(CONTAINERS).join(&relative);
        let failed = |source: io::Error| Error::Create { path: relative.clone(), source };
        let mut made = PathBuf::from(CONTAINERS);
        for part in relative.parent().iter().flat_map(|p| p.iter()) {
            made.push(part);
            create_dir(&made).map_err(failed)?;
            enable_all(&made).map_err(failed)?;
        }
        create_dir(&path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let cgroup = Cgroup { path, devices: Mutex::new(None) };
        match cgroup.limit(linux.and_then(|l| l.resources().as_ref()), fd.as_fd()) {
            Ok(()) => Ok((cgroup, fd)),
            Err(error) => {
                cgroup.remove();
                Err(error)
            }
        }
    }

    /// Makes it a user's, with those of its files that the kernel means to be delegated.
    pub fn give_to(&self, uid: u32) -> Result<(), Error> {
        let files = fs::read_to_string("/sys/kernel/cgroup/delegate")
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
        std::os::unix::fs::chown(&self.path, Some(uid), None).map_err(Error::Owner)?;
        for file in files.lines() {
            match std::os::unix::fs::chown(self.path.join(file), Some(uid), None) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::Owner)?,
            }
        }
        Ok(())
    }

    fn limit(&self, resources: Option<&LinuxResources>, fd: BorrowedFd<'_>) -> Result<(), Error> {
        if let Some(resources) = resources {
            self.apply(resources)?;
        }
        self.decide_devices(resources.and_then(|r| r.devices().as_deref()).unwrap_or_default(), fd)
    }

    fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let mut refused = Vec::new();
        for (file, value) in resources::settings(resources, &update::guest(&self.path))? {
            // The guest's kernel has weights only with some schedulers of block devices, of which it may have none.
            if file == "io.weight" && !self.path.join(&file).exists() {
                continue;
            }
            if self.write(&file, &value).is_err() {
                refused.push((file, value));
            }
        }
        // Some limits have to be below others that came after them: those are right now.
        refused.iter().try_for_each(|(file, value)| self.write(file, value))
    }

    /// Puts the rules in force, and those before them out of it, in one step.
    fn decide_devices(&self, rules: &[LinuxDeviceCgroup], fd: BorrowedFd<'_>) -> Result<(), Error> {
        let program = sys::bpf_load(sys::BpfKind::Device, &device_program::generate(rules)).map_err(Error::Devices)?;
        let mut current = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        sys::bpf_attach_device(program.as_fd(), fd, current.as_ref().map(|p| p.as_fd())).map_err(Error::Devices)?;
        *current = Some(program);
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let failed = |source| Error::Write { file: file.to_owned(), value: value.to_owned(), source };
        fs::OpenOptions::new()
            .write(true)
            .open(self.path.join(file))
            .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
            .map_err(failed)
    }

    /// Absolute, in the guest.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Sends a signal to every process in it and below.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        for pid in self.processes(usize::MAX)? {
            let _ = rustix::process::kill_process(pid, signal); // it may have ended meanwhile
        }
        Ok(())
    }

    /// The processes in it and below, but not many more than `most`.
    pub fn processes(&self, most: usize) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        let mut left = vec![(self.path.clone(), 0)];
        let mut seen = 0;
        while let Some((path, depth)) = left.pop() {
            seen += 1;
            if seen > MAX_BELOW {
                break;
            }
            match fs::read_to_string(path.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse().ok().and_then(Pid::from_raw))),
                Err(error) if depth == 0 => return Err(error),
                Err(_) => continue, // it has just been removed, or it is one of threads
            }
            if pids.len() >= most {
                break;
            }
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            let dirs = below.filter(|e| depth < MAX_DEPTH && e.file_type().is_ok_and(|t| t.is_dir()));
            left.extend(dirs.map(|e| (e.path(), depth + 1)));
        }
        Ok(pids)
    }

    /// A cgroup below this one, or itself, for CLONE_INTO_CGROUP.
    pub fn open(&self, below: &str) -> Result<OwnedFd, Error> {
        let path = path::below(&self.path, below)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| Error::Join { path, source: e.into() })
    }

    /// What became of an attempt to start a process there.
    pub fn cannot_join(&self, below: &str, source: io::Error) -> Error {
        path::below(&self.path, below).map_or_else(|error| error, |path| Error::Join { path, source })
    }

    /// The cgroup where a process of the container is now, which the container may have moved down.
    pub fn open_of(&self, pid: Pid) -> Result<OwnedFd, Error> {
        let failed = |source| Error::Join { path: self.path.clone(), source };
        let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_pid())).map_err(failed)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let below = Path::new(ROOT).join(path);
        let below = below.strip_prefix(&self.path).map_err(|_| failed(io::ErrorKind::NotFound.into()))?;
        self.open(&below.to_string_lossy())
    }

    /// What it uses.
    pub fn stats(&self) -> Stats {
        stats::read(&self.path)
    }

    /// Whether it is frozen, or about to be.
    pub fn freezing(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim_end() == "1")
    }

    /// Freezes all processes; returns when they are frozen.
    pub async fn freeze(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "1")?;
        match self.event("frozen", 1, FREEZE_TIME).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = self.thaw();
                Err(Error::Freeze(error))
            }
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "0")
    }

    /// Waits until its processes, which have been killed, are gone.
    pub async fn emptied(&self) {
        if let Err(error) = self.event("populated", 0, EMPTY_TIME).await {
            log::warn!("the cgroup {} is not empty: {error}", self.path.display());
        }
    }

    async fn event(&self, key: &str, value: u64, most: Duration) -> io::Result<()> {
        let mut events = EventFile::open(&self.path.join("cgroup.events"))?;
        let changed = async {
            while count(&events.read()?, key) != value {
                events.changed().await?;
            }
            Ok(())
        };
        tokio::time::timeout(most, changed).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Its limit of memory, if it has one.
    pub fn memory_limit(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.max")).ok()?.trim_end().parse().ok()
    }

    /// To wait for the next one of them.
    pub fn oom_kills(&self) -> io::Result<OomKills> {
        Ok(OomKills(EventFile::open(&self.path.join("memory.events"))?))
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_killed(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        count(&events, "oom_kill")
    }

    /// Whether a process is in it, or in one below.
    pub fn populated(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        count(&events, "populated") > 0
    }

    /// Removes it and those the container made below; its parents stay, as other containers may use them.
    pub fn remove(&self) {
        remove_tree(&self.path, 0);
    }
}

/// Counts the OOM killer's victims.
pub struct OomKills(EventFile);

impl OomKills {
    /// Their number, once it is more than `seen`.
    pub async fn more_than(&mut self, seen: u64) -> io::Result<u64> {
        loop {
            let killed = count(&self.0.read()?, "oom_kill");
            if killed > seen {
                return Ok(killed);
            }
            self.0.changed().await?;
        }
    }
}

/// What is done with limits before anything is changed.
pub fn check(resources: &LinuxResources) -> Result<(), Error> {
    resources::settings(resources, &update::guest(Path::new(ROOT)))?;
    device_program::generate(resources.devices().as_deref().unwrap_or_default());
    Ok(())
}

fn remove_tree(path: &Path, depth: usize) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path(), depth + 1);
        }
    }
    if let Err(error) = fs::remove_dir(path) {
        log::warn!("cannot remove the cgroup {}: {error}", path.display());
    }
}

fn count(events: &str, key: &str) -> u64 {
    let value = events.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0)
}

fn create_dir(path: &Path) -> io::Result<()> {
    // Not by the agent's umask, which is zero.
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes the cgroup for all containers. What protects a container's memory counts within what protects that of the cgroups above.
pub fn make_common() -> io::Result<()> {
    let path = Path::new(CONTAINERS);
    create_dir(path)?;
    enable_all(path)?;
    for file in ["memory.min", "memory.low"] {
        if let Err(error) = fs::write(path.join(file), "max") {
            log::warn!("cannot set {file} of all containers: {error}");
        }
    }
    Ok(())
}

/// Gives the cgroup's children every controller that there is.
pub fn enable_all(path: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(path.join("cgroup.controllers"))?;
    let all: Vec<String> = controllers.split_ascii_whitespace().map(|c| format!("+{c}")).collect();
    if all.is_empty() { Ok(()) } else { fs::write(path.join("cgroup.subtree_control"), all.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn events_are_counted() {
        let events = "low 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(count(events, "oom_kill"), 2);
        assert_eq!(count(events, "oom"), 1);
        assert_eq!(count("", "oom"), 0);
    }
}
