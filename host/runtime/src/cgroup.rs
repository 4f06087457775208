//! The host's cgroup of a container: its proxy, its monitor and the proxies of its exec'd processes live there.
//!
//! It is where callers look for the container (linux.cgroupsPath) and where the host bounds the micro-VM. The container's own
//! limits are enforced in the guest; docs/cgroups.md says which of them count here, too.

mod barren;
mod directory;
mod hierarchy;
mod limits;
mod overhead;
mod place;
mod removal;
mod systemd;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agent_protocol::cgroup as convert;
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::Plain;
pub use barren::{Barren, exhaust};
use hierarchy::{Hierarchies, Hierarchy};
use limits::{Host, Setting};
pub use overhead::Overhead;
use place::Wanted;
use systemd::Scope;
pub use systemd::{BusError, PREFIX as SYSTEMD_PROPERTY};

/// Why a container has no cgroup, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// What the kernel says about this process cannot be read.
    #[error("cannot read {}: {}", .path.display(), Plain(.source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No hierarchy.
    #[error("this system has no cgroups: mount them at /sys/fs/cgroup")]
    None,
    /// The path means nothing.
    #[error("config.json: linux.cgroupsPath: {0}")]
    Path(&'static str),
    /// systemd cannot be asked.
    #[error("--systemd-cgroup: cannot reach systemd over D-Bus: {0}")]
    Systemd(#[source] BusError),
    /// systemd does not do what it is asked.
    #[error("--systemd-cgroup: systemd does not {action} {scope}: {source}")]
    Scope {
        /// A verb.
        action: &'static str,
        /// The unit.
        scope: String,
        /// Why.
        source: BusError,
    },
    /// A property that an annotation asks for.
    #[error("config.json: annotations.{key}: {reason}")]
    Annotation {
        /// The annotation.
        key: String,
        /// A clause.
        reason: &'static str,
    },
    /// A process in it would never run.
    #[error("container's cgroup unexpectedly frozen: {} (thaw it, or give another linux.cgroupsPath)", .0.display())]
    Frozen(PathBuf),
    /// Another container's, or what is left of one.
    #[error("--systemd-cgroup: there is a {scope} with {processes} processes already")]
    ScopeInUse {
        /// The unit.
        scope: String,
        /// In its cgroup.
        processes: usize,
    },
    /// A value that cannot be.
    #[error("config.json: linux.resources.{field}: {problem}")]
    Resource {
        /// As in the specification.
        field: &'static str,
        /// One clause.
        problem: &'static str,
    },
    /// The directory.
    #[error("cannot create the cgroup {}: {}", .path.display(), Plain(.source))]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit needs a controller that the cgroup does not have.
    #[error("cannot set {file}: {why}")]
    Controller {
        /// The limit's file.
        file: String,
        /// A clause.
        why: String,
    },
    /// A limit.
    #[error("cannot set {} to {value:?}: {}", .path.display(), Plain(.source))]
    Set {
        /// File.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A process cannot be moved.
    #[error("cannot put process {pid} into the cgroup {}: {}", .path.display(), Plain(.source))]
    Join {
        /// Which process.
        pid: i32,
        /// Which cgroup.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be removed.
    #[error("cannot remove the cgroup {}: {}", .path.display(), Plain(.source))]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its processes do not end.
    #[error("cannot remove the cgroup {}: {processes} processes in it do not end", .path.display())]
    Busy {
        /// Which.
        path: PathBuf,
        /// How many are left.
        processes: usize,
    },
}

/// What the processes of the host may still take while the guest follows a lower limit of memory.
const STILL_TO_COME: u64 = 64 << 20;

/// A container's cgroup, in one hierarchy or several. It is kept in state.json; dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCgroup {
    unified: bool,
    overhead: Overhead,
    places: Vec<Place>,
    /// systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

/// Its directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// v1: the hierarchy's. v2: none.
    controllers: Vec<String>,
    path: PathBuf,
    /// It was not there before.
    made: bool,
}

impl Place {
    /// By itself or by one above it.
    fn is_frozen(&self) -> bool {
        let says = |file: &str, line: &str| {
            hierarchy::read(&self.path, file).is_ok_and(|text| text.lines().any(|l| l == line))
        };
        if self.controllers.is_empty() {
            says("cgroup.freeze", "1") || says("cgroup.events", "frozen 1")
        } else {
            says("freezer.state", "FROZEN") || says("freezer.state", "FREEZING")
        }
    }
}

/// Where a container's cgroup is to be.
#[derive(Debug)]
pub struct Planned {
    wanted: Wanted,
    hierarchies: Hierarchies,
    overhead: Overhead,
    /// systemd is to make it.
    by_systemd: bool,
}

impl Planned {
    /// As a configuration says.
    pub fn new(spec: &Spec, id: &str, systemd: bool, overhead: Overhead) -> Result<Self, CgroupError> {
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let wanted = place::wanted(path, id, systemd)?;
        let hierarchies = Hierarchies::find()?;
        let by_systemd = systemd && matches!(wanted, Wanted::Absolute(_)) && systemd::runs();
        Ok(Self { wanted, hierarchies, overhead, by_systemd })
    }

    fn empty(&self) -> HostCgroup {
        HostCgroup { unified: self.hierarchies.unified, overhead: self.overhead, places: Vec::new(), scope: None }
    }

    fn path(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount_point.join(place::inside(hierarchy, self.hierarchies.unified, &self.wanted))
    }

    /// To be kept while it is made: what a command that is killed meanwhile leaves of it. What is there already is not this container's, and a
    /// scope without a process goes by itself.
    pub fn remains(&self) -> Option<HostCgroup> {
        let place = |hierarchy: &Hierarchy| {
            let path = self.path(hierarchy);
            (!path.exists()).then(|| Place { controllers: hierarchy.controllers.clone(), path, made: false })
        };
        let places = || self.hierarchies.list.iter().filter_map(place).collect();
        (!self.by_systemd).then(|| HostCgroup { places: places(), ..self.empty() })
    }

    /// Makes the container's cgroup in every hierarchy, applies the limits that count on the host but for
    /// [that of CPU time](HostCgroup::limit_cpu_time), and moves `pid`, the process behind the container's, into it. When that fails, no
    /// cgroup of the container's stays but one that `pid` is in.
    pub fn make(self, spec: &Spec, id: &str, pid: Pid) -> Result<HostCgroup, CgroupError> {
        let empty = self.empty();
        let Self { wanted, hierarchies, by_systemd, .. } = self;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let scope = match &wanted {
            Wanted::Absolute(path) if by_systemd => {
                let processes = || hierarchies.processes(path);
                let unified = hierarchies.unified;
                let properties = systemd::annotated(spec.annotations().as_ref())?;
                let wanted = systemd::Wanted { path, id, pid, unified, properties: &properties, processes: &processes };
                Some(Scope::start(&wanted)?)
            }
            _ => None,
        };
        let cgroup = HostCgroup { scope, ..empty }.create_in(&hierarchies, &wanted, resources)?;
        match cgroup.check_usable().and_then(|()| cgroup.add_process(pid)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.forget();
                Err(error)
            }
        }
    }
}

impl HostCgroup {
    fn create_in(
        mut self,
        hierarchies: &Hierarchies,
        wanted: &Wanted,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, CgroupError> {
        let made = hierarchies
            .list
            .iter()
            .try_for_each(|hierarchy| self.make(hierarchy, &place::inside(hierarchy, hierarchies.unified, wanted)))
            .and_then(|()| {
                resources.map_or(Ok(()), |resources| self.apply(resources, |setting| !setting.is_cpu_time()))
            });
        match made {
            Ok(()) => Ok(self),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// Whether a process can run in it. One that was there before may hold others, which is told, as runc does.
    fn check_usable(&self) -> Result<(), CgroupError> {
        if let Some(frozen) = self.places.iter().find(|place| place.is_frozen()) {
            return Err(CgroupError::Frozen(frozen.path.clone()));
        }
        let others = self.places.iter().filter(|place| !place.made);
        let others = others.map(|place| removal::processes(&place.path).len()).max().unwrap_or(0);
        if others > 0 {
            log::warn!("container's cgroup is not empty: {others} process(es) found");
        }
        Ok(())
    }

    /// Takes back what was made.
    fn forget(&self) {
        self.places.iter().filter(|place| place.made).for_each(|place| removal::remove_if_empty(&place.path));
    }

    fn make(&mut self, hierarchy: &Hierarchy, inside: &Path) -> Result<(), CgroupError> {
        let made = directory::make(hierarchy, inside, self.unified)?;
        let path = hierarchy.mount_point.join(inside);
        // systemd makes some of them, and refuses a scope that is there.
        let made = made || self.scope.is_some();
        self.places.push(Place { controllers: hierarchy.controllers.clone(), path, made });
        Ok(())
    }

    /// Moves a process, all its threads with it, into the cgroup. Its children will be born there.
    pub fn add_process(&self, pid: Pid) -> Result<(), CgroupError> {
        if self.scope.is_some() {
            self.restore()?;
        }
        let pid = pid.as_raw_nonzero().get();
        self.places.iter().try_for_each(|place| {
            let failed = |source| CgroupError::Join { pid, path: place.path.clone(), source };
            write(&place.path.join("cgroup.procs"), &pid.to_string()).map_err(failed)
        })
    }

    /// In v1 systemd removes the cgroup of a scope, whenever it sets limits, from each hierarchy where it has none to set, and
    /// moves the processes to the slice's: makes what is missing.
    fn restore(&self) -> Result<(), CgroupError> {
        self.places.iter().filter(|place| !place.path.exists()).try_for_each(|Place { path, .. }| {
            fs::create_dir_all(path).map_err(|source| CgroupError::Create { path: path.clone(), source })
        })
    }

    /// Moves all of its processes to where the others have stayed.
    fn gather(&self) -> Result<(), CgroupError> {
        if self.unified {
            return Ok(());
        }
        let own = self.place(hierarchy::SYSTEMD).map_or(Vec::new(), |place| removal::processes(&place.path));
        own.into_iter().try_for_each(|pid| match self.add_process(pid) {
            Err(CgroupError::Join { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        })
    }

    /// Its directories by controller, as other runtimes name them in their state: that of v2 has the empty name.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut paths = BTreeMap::new();
        for place in &self.places {
            if place.controllers.is_empty() {
                paths.insert(String::new(), place.path.clone());
            }
            paths.extend(place.controllers.iter().map(|controller| (controller.clone(), place.path.clone())));
        }
        paths
    }

    /// Applies limits; what `resources` does not speak of stays as it is. A limit of memory is not made lower than what is in use: the
    /// guest, where a lower one holds, gives back later what it has had.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let (limit, used) = (self.memory_limit().unwrap_or(u64::MAX), self.memory_used());
        let least = self.overhead.least.max(used.saturating_add(STILL_TO_COME).min(limit));
        let cgroup = Self { overhead: Overhead { least, ..self.overhead }, ..self.clone() };
        cgroup.apply(&self.completed(resources), |_| true)
    }

    fn memory_file(&self, unified: &str, v1: &str) -> Option<u64> {
        let file = if self.unified { unified } else { v1 };
        hierarchy::read(&self.place("memory")?.path, file).ok()?.trim_end().parse().ok()
    }

    fn memory_used(&self) -> u64 {
        self.memory_file("memory.current", "memory.usage_in_bytes").unwrap_or(0)
    }

    /// The limit of memory, if there is one. v1 shows none as the largest number of whole pages.
    fn memory_limit(&self) -> Option<u64> {
        self.memory_file("memory.max", "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62)
    }

    /// How much memory the guest may have by the limit; nothing where there is none.
    pub fn guest_memory(&self) -> Option<u64> {
        self.memory_limit().map(|limit| self.overhead.guest(limit))
    }

    /// In v2 one file holds two limits of CPU time, and the limit of swap depends on that of memory: what is left out is what it was.
    fn completed(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let Some(place) = self.places.first().filter(|_| self.unified) else { return resources };
        let now = |file: &str| hierarchy::read(&place.path, file).unwrap_or_default();
        if let Some(mut cpu) = resources.cpu().clone() {
            let (quota, period) = convert::cpu_max(cpu.quota(), cpu.period(), &now("cpu.max"));
            cpu.set_quota(quota).set_period(period);
            resources.set_cpu(Some(cpu));
        }
        if let Some(mut memory) = *resources.memory() {
            if memory.swap().is_some_and(|swap| swap > 0) && memory.limit().unwrap_or(0) == 0 {
                let limit = now("memory.max").trim_end().parse().ok().map(|size| self.overhead.given(size) as i64);
                memory.set_limit(limit);
            }
            resources.set_memory(Some(memory));
        }
        resources
    }

    /// Applies the limits of CPU time. They are the container's, which a guest that boots would wait for.
    pub fn limit_cpu_time(&self, spec: &Spec) -> Result<(), CgroupError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        resources.map_or(Ok(()), |resources| self.apply(resources, Setting::is_cpu_time))
    }

    /// Lets the guest of a container that has ended take the time that it needs for its own end.
    pub fn lift_cpu_time(&self) {
        let (file, none) = if self.unified { ("cpu.max", "max") } else { ("cpu.cfs_quota_us", "-1") };
        if let Some(place) = self.place("cpu").filter(|place| place.made) {
            let _ = write(&place.path.join(file), none);
        }
    }

    fn apply(&self, resources: &LinuxResources, which: impl Fn(&Setting) -> bool) -> Result<(), CgroupError> {
        let has_file =
            |controller, file: &str| self.place(controller).is_some_and(|place| place.path.join(file).exists());
        let host = Host { unified: self.unified, overhead: self.overhead, has_file: &has_file };
        let mut settings = limits::settings(resources, &host)?;
        settings.retain(which);
        if settings.is_empty() {
            return Ok(());
        }
        if let Some(scope) = &self.scope {
            scope.set(&settings)?;
            self.gather()?;
        }
        // The kernel checks limits against each other, quota and burst for one: which must be first depends on what was
        // there before. So those it finds invalid are tried again after the others.
        let mut again = Vec::new();
        for setting in settings {
            match self.set(&setting) {
                Err(CgroupError::Set { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                    again.push(setting)
                }
                other => other?,
            }
        }
        again.iter().try_for_each(|setting| self.set(setting))
    }

    fn set(&self, setting: &Setting) -> Result<(), CgroupError> {
        let missing = |why| CgroupError::Controller { file: setting.file.clone(), why };
        let Some(place) = self.place(setting.controller) else {
            return Err(missing(format!("this system has no cgroup controller `{}`", setting.controller)));
        };
        let path = place.path.join(&setting.file);
        match write(&path, &setting.value) {
            Err(_) if self.unified && !directory::has_controller(&place.path, setting.controller) => {
                Err(missing(directory::explain(&place.path, setting.controller)))
            }
            Err(source) => Err(CgroupError::Set { path, value: setting.value.clone(), source }),
            Ok(()) => Ok(()),
        }
    }

    fn place(&self, controller: &str) -> Option<&Place> {
        self.places.iter().find(|place| self.unified || place.controllers.iter().any(|c| c == controller))
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = self.place("memory").and_then(|place| hierarchy::read(&place.path, file).ok()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// A place for a process that is to be killed for want of memory, and counted here; none where that cannot be. In v1 it is
    /// this cgroup itself: good only once the container has ended.
    pub fn starve(&self, ended: bool) -> io::Result<Option<Barren>> {
        match self.place("memory") {
            Some(place) if self.unified => Barren::beside(&place.path).map(Some),
            Some(place) if ended => Barren::within(&place.path).map(Some),
            _ => Ok(None),
        }
    }

    /// Something runs in it, or has just ended.
    pub fn has_processes(&self) -> bool {
        self.places.iter().any(|place| !removal::processes(&place.path).is_empty())
    }

    /// Removes it, not its parents, once its processes have ended; it kills none, and waits a limited time. One that was there
    /// before the container goes only if nothing is in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for place in &self.places {
            removal::remove_if_empty(&barren::name(&place.path));
            if place.made {
                result = result.and(removal::remove(&place.path));
            } else {
                removal::remove_if_empty(&place.path);
            }
        }
        result.and_then(|()| self.scope.as_ref().map_or(Ok(()), Scope::stop))
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// All that is computed from a configuration, for both kinds of hierarchy.
pub(crate) fn check(spec: &Spec, overhead: Overhead) {
    let Some(linux) = spec.linux() else { return };
    for systemd in [false, true] {
        let _ = place::wanted(linux.cgroups_path().as_deref(), "box", systemd);
    }
    let Some(resources) = linux.resources() else { return };
    for (unified, bfq) in [(false, false), (false, true), (true, false), (true, true)] {
        let has_file = |_: &'static str, _: &str| bfq;
        let _ = limits::settings(resources, &Host { unified, overhead, has_file: &has_file });
    }
}

#[cfg(test)]
#[path = "cgroup/tests.rs"]
mod tests;
