//! One process: `process` of config.json, or the object that exec brings.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;

use oci_spec::runtime::{
    Capabilities, ExecCPUAffinity, IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
};

use super::{Error, invalid};
use crate::process::{affinity, caps};
use crate::sys::SchedAttr;

/// A checked process with all that was computed from it.
pub struct ProcessPlan {
    /// The text itself, for what is applied as it stands.
    pub given: Process,
    /// args.
    pub args: Vec<CString>,
    /// env, each name once.
    pub env: Vec<CString>,
    /// Numbers of capabilities by set.
    pub caps: caps::Sets,
    /// scheduler.
    pub scheduler: Option<SchedAttr>,
    /// ioPriority as class and level.
    pub io_priority: Option<(u32, u32)>,
    /// execCPUAffinity.
    pub affinity: Affinity,
}

/// CPUs to begin with, and to have when the program runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Before the process joins the container.
    pub initial: Option<Vec<usize>>,
    /// After that.
    pub last: Option<Vec<usize>>,
}

impl ProcessPlan {
    /// Checks the object.
    pub fn new(given: Process) -> Result<ProcessPlan, Error> {
        refuse(&given)?;
        let args = c_strings("process.args", given.args().as_deref().unwrap_or_default())?;
        if args.is_empty() {
            return Err(Error::Missing("process.args"));
        }
        let env = environment(given.env().as_deref().unwrap_or_default())?;
        if !given.cwd().is_absolute() {
            return Err(invalid("process.cwd", "must be an absolute path"));
        }
        Ok(ProcessPlan {
            args,
            env,
            caps: capability_sets(&given),
            scheduler: scheduler(&given)?,
            io_priority: io_priority(&given)?,
            affinity: given.exec_cpu_affinity().as_ref().map(cpu_affinity).transpose()?.unwrap_or_default(),
            given,
        })
    }

    /// The object of an exec. What it leaves out of capabilities, limits, priorities and the umask is as for the container's
    /// first process, as in runc.
    pub fn exec(json: &[u8], first: &Process) -> Result<ProcessPlan, Error> {
        let mut value: serde_json::Value = serde_json::from_slice(json)?;
        if let Some(object) = value.as_object_mut() {
            object.entry("user").or_insert_with(|| serde_json::json!({}));
        }
        rename_flags(&mut value);
        let mut given: Process = serde_json::from_value(value)?;
        if given.capabilities().is_none() {
            given.set_capabilities(first.capabilities().clone());
        }
        if given.rlimits().as_ref().is_none_or(Vec::is_empty) {
            given.set_rlimits(first.rlimits().clone());
        }
        if given.oom_score_adj().is_none() {
            given.set_oom_score_adj(first.oom_score_adj());
        }
        if given.scheduler().is_none() {
            given.set_scheduler(first.scheduler().clone());
        }
        if given.io_priority().is_none() {
            given.set_io_priority(*first.io_priority());
        }
        if given.user().umask().is_none() {
            given.user_mut().set_umask(first.user().umask());
        }
        ProcessPlan::new(given)
    }

    /// terminal.
    pub fn terminal(&self) -> bool {
        self.given.terminal().unwrap_or(false)
    }

    /// noNewPrivileges.
    pub fn no_new_privileges(&self) -> bool {
        self.given.no_new_privileges().unwrap_or(false)
    }
}

/// Names of scheduler flags in the specification, and in the crate that reads it.
const FLAGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

/// Whether a text may hold such a flag.
pub fn has_flags(json: &[u8]) -> bool {
    FLAGS.iter().any(|(name, _)| json.windows(name.len()).any(|w| w == name.as_bytes()))
}

/// Gives a process's scheduler flags the names that the crate knows.
pub fn rename_flags(process: &mut serde_json::Value) {
    let flags = process.pointer_mut("/scheduler/flags").and_then(serde_json::Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, name)) = FLAGS.iter().find(|(name, _)| flag.as_str() == Some(*name)) {
            *flag = (*name).into();
        }
    }
}

fn refuse(process: &Process) -> Result<(), Error> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    let no = |field: &str, reason| Err(Error::Unsupported { field: field.to_owned(), reason });
    if given(process.apparmor_profile()) {
        return no("process.apparmorProfile", "its kernel has no AppArmor");
    }
    if given(process.selinux_label()) {
        return no("process.selinuxLabel", "its kernel has no SELinux");
    }
    Ok(())
}

fn cpu_affinity(given: &ExecCPUAffinity) -> Result<Affinity, Error> {
    let list = |name: &str, text: &Option<String>| {
        let text = text.as_deref().filter(|t| !t.is_empty());
        let parsed = text.map(affinity::parse).transpose();
        parsed.map_err(|problem| invalid(format!("process.execCPUAffinity.{name}"), problem))
    };
    Ok(Affinity { initial: list("initial", given.initial())?, last: list("final", given.cpu_affinity_final())? })
}

/// For execve(2).
pub fn c_strings(field: &str, strings: &[String]) -> Result<Vec<CString>, Error> {
    let convert = |(i, s): (usize, &String)| {
        CString::new(s.as_str()).map_err(|_| invalid(format!("{field}[{i}]"), "contains a zero byte"))
    };
    strings.iter().enumerate().map(convert).collect()
}

/// Of a name that is given several times the last value counts, in the place of the first, as in runc: callers add what is to override, and
/// a program would find the first.
fn environment(pairs: &[String]) -> Result<Vec<CString>, Error> {
    let mut places = HashMap::new();
    let mut all: Vec<CString> = Vec::new();
    for (index, (pair, text)) in pairs.iter().zip(c_strings("process.env", pairs)?).enumerate() {
        let name = match pair.split_once('=') {
            Some((name, _)) if !name.is_empty() => name,
            _ => return Err(invalid(format!("process.env[{index}]"), format!("{pair:?} is not NAME=value"))),
        };
        match places.entry(name) {
            Entry::Vacant(place) => {
                place.insert(all.len());
                all.push(text);
            }
            Entry::Occupied(place) => {
                if let Some(before) = all.get_mut(*place.get()) {
                    *before = text;
                }
            }
        }
    }
    Ok(all)
}

fn capability_sets(process: &Process) -> caps::Sets {
    let bits = |set: Option<&Capabilities>| set.map_or(0, caps::bits);
    let Some(given) = process.capabilities() else { return caps::Sets::default() };
    caps::Sets {
        bounding: bits(given.bounding().as_ref()),
        effective: bits(given.effective().as_ref()),
        permitted: bits(given.permitted().as_ref()),
        inheritable: bits(given.inheritable().as_ref()),
        ambient: bits(given.ambient().as_ref()),
    }
}

fn scheduler(process: &Process) -> Result<Option<SchedAttr>, Error> {
    let Some(given) = process.scheduler() else { return Ok(None) };
    let policy = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => return Err(invalid("process.scheduler.policy", "Linux has no SCHED_ISO")),
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin | LinuxSchedulerFlag::SchedFlagUtilClampMax => {
                return Err(invalid(
                    "process.scheduler.flags",
                    "utilisation clamps have no value in the specification",
                ));
            }
        };
    }
    let priority = u32::try_from(given.priority().unwrap_or(0))
        .map_err(|_| invalid("process.scheduler.priority", "is negative"))?;
    Ok(Some(SchedAttr {
        policy,
        flags,
        nice: given.nice().unwrap_or(0),
        priority,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
        ..SchedAttr::default()
    }))
}

fn io_priority(process: &Process) -> Result<Option<(u32, u32)>, Error> {
    let Some(given) = process.io_priority() else { return Ok(None) };
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(given.priority()) {
        Ok(level @ 0..=7) => Ok(Some((class, level))),
        _ => Err(invalid("process.ioPriority.priority", "must be between 0 and 7")),
    }
}
