//! Where systemd runs and its driver is asked for, a container's cgroup is that of a scope: systemd makes it and is told of
//! the limits, so that it neither removes nor resets what it knows nothing of. What it has no property for is written to files.

mod annotations;
mod bus;
mod message;
mod properties;

use std::path::Path;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use zbus::Variant;

use super::CgroupError;
use super::limits::Setting;
pub use annotations::{PREFIX, Value, properties as annotated};
use bus::Bus;
pub use bus::BusError;
use properties::Property;

/// Exists, and is a directory, where systemd is the init system.
const RUNS: &str = "/run/systemd/system";
/// A job takes the place of others for its unit that contradict it.
const REPLACE: &str = "replace";
/// Until the next start of the machine, which is the end of the unit, too.
const RUNTIME: bool = true;

/// Auxiliary units, which come with one: none.
type Auxiliary = Vec<(String, Vec<Property<'static>>)>;

/// A unit of systemd that holds processes which others start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    name: String,
}

/// What a new scope is to be.
pub struct Wanted<'a> {
    /// Its cgroup, below the mount point: slices, then its name.
    pub path: &'a Path,
    /// The container's.
    pub id: &'a str,
    /// Its first process.
    pub pid: Pid,
    /// cgroup v2.
    pub unified: bool,
    /// What annotations ask for.
    pub properties: &'a [(String, Value)],
    /// How many processes are in its cgroup.
    pub processes: &'a dyn Fn() -> usize,
}

/// Whether systemd manages this machine's cgroups.
pub fn runs() -> bool {
    Path::new(RUNS).is_dir()
}

impl Scope {
    /// Has systemd make the scope with a process in it, and waits until it has.
    pub fn start(wanted: &Wanted<'_>) -> Result<Self, CgroupError> {
        let scope = Self { name: name(wanted.path).unwrap_or_default().to_owned() };
        if !scope.name.ends_with(".scope") {
            return Err(CgroupError::Path("names a slice, in which systemd lets no process be"));
        }
        let failed = |source| CgroupError::Scope { action: "start", scope: scope.name.clone(), source };
        let mut bus = Bus::connect().map_err(CgroupError::Systemd)?;
        bus.subscribe().map_err(failed)?;
        let slice = wanted.path.parent().and_then(name).unwrap_or("-.slice");
        let mut result = bus.job("StartTransientUnit", &scope.unit(slice, wanted));
        if is(&result, "UnitExists") {
            // Left by a `create` that was killed. It may be somebody else's, too: then there are processes in it.
            match (wanted.processes)() {
                0 => scope.end(&mut bus).map_err(failed)?,
                processes => return Err(CgroupError::ScopeInUse { scope: scope.name, processes }),
            }
            result = bus.job("StartTransientUnit", &scope.unit(slice, wanted));
        }
        if matches!(result, Err(BusError::Job(_))) {
            let _ = bus.manager("ResetFailedUnit", &(&scope.name,));
        }
        result.map_err(failed)?;
        Ok(scope)
    }

    fn unit<'a>(&'a self, slice: &str, wanted: &'a Wanted<'_>) -> (&'a str, &'a str, Vec<Property<'a>>, Auxiliary) {
        let io_accounting = if wanted.unified { "IOAccounting" } else { "BlockIOAccounting" };
        let mut list: Vec<Property<'_>> = vec![
            ("Description", format!("sandbox container {}", wanted.id).into()),
            ("Slice", slice.to_owned().into()),
            ("PIDs", vec![wanted.pid.as_raw_nonzero().get() as u32].into()),
            ("Delegate", true.into()),
            ("DefaultDependencies", false.into()),
        ];
        let accounting = ["MemoryAccounting", "CPUAccounting", io_accounting, "TasksAccounting"];
        list.extend(accounting.map(|name| (name, Variant::from(true))));
        list.extend(wanted.properties.iter().map(|(name, value)| (name.as_str(), value.variant())));
        (&self.name, REPLACE, list, Auxiliary::new())
    }

    /// Tells systemd of limits.
    pub fn set(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        let mut bus = Bus::connect().map_err(CgroupError::Systemd)?;
        let list = properties::of(settings, bus.version);
        if list.is_empty() {
            return Ok(());
        }
        let failed = |source| CgroupError::Scope { action: "change", scope: self.name.clone(), source };
        bus.manager("SetUnitProperties", &(&self.name, RUNTIME, list)).map(drop).map_err(failed)
    }

    /// Has systemd forget the scope, whose processes have ended. One that is forgotten already is no error.
    pub fn stop(&self) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Scope { action: "stop", scope: self.name.clone(), source };
        let mut bus = Bus::connect().map_err(CgroupError::Systemd)?;
        bus.subscribe().and_then(|()| self.end(&mut bus)).map_err(failed)
    }

    fn end(&self, bus: &mut Bus) -> Result<(), BusError> {
        let stopped = bus.job("StopUnit", &(&self.name, REPLACE));
        if !is(&stopped, "NoSuchUnit") {
            stopped?;
        }
        // One that has failed would keep its name.
        match bus.manager("ResetFailedUnit", &(&self.name,)) {
            Err(error @ (BusError::Io(_) | BusError::Silent)) => Err(error),
            _ => Ok(()),
        }
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Whether it is an error of systemd's with this name.
fn is<T>(result: &Result<T, BusError>, error: &str) -> bool {
    let Err(BusError::Refused { name, .. }) = result else { return false };
    name.strip_prefix("org.freedesktop.systemd1.") == Some(error)
}
