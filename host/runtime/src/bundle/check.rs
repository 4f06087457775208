//! What every configuration has, whatever it runs on: version, process, root, mounts, hooks.

use std::path::Path;

use oci_spec::runtime::{Hook, LinuxNamespaceType, LinuxSchedulerPolicy, Mount, Process, Spec};

use super::{BundleError, brief, invalid, linux, refuse};
use crate::features;
use crate::hooks::Phase;

/// PATH_MAX, with its NUL.
const PATH_LIMIT: usize = 4096;
/// MAX_ARG_STRLEN, with its NUL.
const ARGUMENT_LIMIT: usize = 128 << 10;
/// Each is made one after the other, and each is a device's share or a mount of the guest's.
const MOUNTS_MAX: usize = 4096;
/// __NEW_UTS_LEN.
const NAME_MAX: usize = 64;
/// The kernel's ids are larger, but other runtimes take no more.
const ID_MAX: u32 = i32::MAX as u32;

/// Checks it all.
pub(super) fn all(spec: &Spec) -> Result<(), BundleError> {
    version(spec.version())?;
    sections(spec)?;
    process(spec.process().as_ref().ok_or(BundleError::Missing("process"))?)?;
    root(spec)?;
    names(spec)?;
    mounts(spec)?;
    hooks(spec)?;
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(invalid("annotations", "a key is empty"));
    }
    linux::check(spec.linux().as_ref())
}

pub(super) fn version(version: &str) -> Result<(), BundleError> {
    if version.is_empty() {
        return Err(BundleError::Missing("ociVersion"));
    }
    let mut numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    let major = numbers.next();
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if major != Some("1") || numbers.clone().count() != 2 || !numbers.all(numeric) {
        return Err(BundleError::Version(brief(version)));
    }
    Ok(())
}

fn sections(spec: &Spec) -> Result<(), BundleError> {
    refuse(spec.solaris().is_some(), "solaris", " (containers are Linux ones)")?;
    refuse(spec.windows().is_some(), "windows", " (containers are Linux ones)")?;
    refuse(spec.zos().is_some(), "zos", " (containers are Linux ones)")
}

fn process(process: &Process) -> Result<(), BundleError> {
    let args = process.args().as_deref().unwrap_or_default();
    match args.first() {
        None => return Err(BundleError::Missing("process.args")),
        Some(name) if name.is_empty() => return Err(invalid("process.args[0]", "the command's name is empty")),
        Some(_) => {}
    }
    for (index, text) in args.iter().enumerate() {
        argument(|| format!("process.args[{index}]"), text)?;
    }
    for (index, text) in process.env().iter().flatten().enumerate() {
        argument(|| format!("process.env[{index}]"), text)?;
        if matches!(text.find('='), None | Some(0)) {
            return Err(invalid(format!("process.env[{index}]"), format!("{:?} is not NAME=value", brief(text))));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(invalid("process.cwd", "the working directory must be an absolute path"));
    }
    path("process.cwd", process.cwd())?;
    user(process)?;
    limits(process)?;
    scheduling(process)?;
    let Some(size) = process.console_size() else { return Ok(()) };
    for (field, value) in [("process.consoleSize.height", size.height()), ("process.consoleSize.width", size.width())] {
        if value > u64::from(u16::MAX) {
            return Err(invalid(field, format!("{value} is no size of a terminal (0 to {})", u16::MAX)));
        }
    }
    Ok(())
}

fn argument(field: impl Fn() -> String, text: &str) -> Result<(), BundleError> {
    if text.len() >= ARGUMENT_LIMIT {
        return Err(invalid(field(), "argument list too long: a string may have 131071 bytes"));
    }
    Ok(())
}

/// A path that the kernel would not take.
pub(super) fn path(field: &str, path: &Path) -> Result<(), BundleError> {
    if path.as_os_str().len() >= PATH_LIMIT {
        return Err(invalid(field, "file name too long: a path may have 4095 bytes"));
    }
    Ok(())
}

fn user(process: &Process) -> Result<(), BundleError> {
    let user = process.user();
    let id = |field: String, id: u32| match id {
        0..=ID_MAX => Ok(()),
        _ => Err(invalid(field, format!("{id} is out of range (0 to {ID_MAX})"))),
    };
    id("process.user.uid".to_string(), user.uid())?;
    id("process.user.gid".to_string(), user.gid())?;
    for (index, group) in user.additional_gids().iter().flatten().enumerate() {
        id(format!("process.user.additionalGids[{index}]"), *group)?;
    }
    Ok(())
}

fn limits(process: &Process) -> Result<(), BundleError> {
    let mut seen = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let field = |key: &str| format!("process.rlimits[{index}].{key}");
        if seen.contains(&limit.typ()) {
            return Err(invalid(field("type"), format!("{} is given twice", limit.typ())));
        }
        seen.push(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(invalid(field("soft"), format!("{} is above the hard limit, {}", limit.soft(), limit.hard())));
        }
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(invalid("process.oomScoreAdj", format!("{score} is out of range (-1000 to 1000)")))
        }
        _ => Ok(()),
    }
}

fn scheduling(process: &Process) -> Result<(), BundleError> {
    if let Some(given) = process.io_priority()
        && !(0..=7).contains(&given.priority())
    {
        let reason = format!("{} is out of range (0 to 7)", given.priority());
        return Err(invalid("process.ioPriority.priority", reason));
    }
    let Some(given) = process.scheduler() else { return Ok(()) };
    if let Some(nice) = given.nice()
        && !(-20..=19).contains(nice)
    {
        return Err(invalid("process.scheduler.nice", format!("{nice} is out of range (-20 to 19)")));
    }
    let deadline = [("runtime", given.runtime()), ("deadline", given.deadline()), ("period", given.period())];
    for (key, time) in deadline {
        // The kernel would not look at it.
        if *given.policy() != LinuxSchedulerPolicy::SchedDeadline && time.is_some_and(|time| time != 0) {
            return Err(invalid(format!("process.scheduler.{key}"), "it is for the policy SCHED_DEADLINE only"));
        }
    }
    match given.priority() {
        Some(priority) if !(0..=99).contains(priority) => {
            Err(invalid("process.scheduler.priority", format!("{priority} is out of range (0 to 99)")))
        }
        _ => Ok(()),
    }
}

fn root(spec: &Spec) -> Result<(), BundleError> {
    let root = spec.root().as_ref().ok_or(BundleError::Missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(BundleError::Missing("root.path"));
    }
    path("root.path", root.path())
}

fn names(spec: &Spec) -> Result<(), BundleError> {
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
        if name.len() > NAME_MAX {
            return Err(invalid(field, format!("longer than {NAME_MAX} bytes")));
        }
        if !linux::has(spec.linux().as_ref(), LinuxNamespaceType::Uts) {
            return Err(invalid(field, "it cannot be set without a private UTS namespace in linux.namespaces"));
        }
    }
    Ok(())
}

fn mounts(spec: &Spec) -> Result<(), BundleError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    if mounts.len() > MOUNTS_MAX {
        return Err(invalid("mounts", format!("{} entries, and {MOUNTS_MAX} are possible", mounts.len())));
    }
    for (index, mount) in mounts.iter().enumerate() {
        let field = |key: &str| format!("mounts[{index}].{key}");
        if mount.destination().as_os_str().is_empty() {
            return Err(invalid(field("destination"), "it is empty"));
        }
        if !mount.destination().is_absolute() {
            log::warn!("{}: not an absolute path, taken as relative to /", field("destination"));
        }
        path(&field("destination"), mount.destination())?;
        mount.source().iter().try_for_each(|source| path(&field("source"), source))?;
        mount.typ().iter().try_for_each(|kind| path(&field("type"), Path::new(kind)))?;
        let bind = is_bind(mount);
        for (number, option) in mount.options().iter().flatten().enumerate() {
            let field = field(&format!("options[{number}]"));
            path(&field, Path::new(option))?;
            if bind && !option.is_empty() && !features::knows_mount_option(option) {
                log::warn!("{field}: {:?} is no option of a bind mount, and is ignored", brief(option));
            }
        }
    }
    Ok(())
}

fn is_bind(mount: &Mount) -> bool {
    let named = |option: &String| matches!(option.as_str(), "bind" | "rbind");
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(named)
}

fn hooks(spec: &Spec) -> Result<(), BundleError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    Phase::ALL.iter().try_for_each(|phase| {
        phase.of(hooks).iter().enumerate().try_for_each(|(index, one)| hook(&format!("hooks.{phase}[{index}]"), one))
    })
}

fn hook(field: &str, hook: &Hook) -> Result<(), BundleError> {
    if !hook.path().is_absolute() {
        return Err(invalid(format!("{field}.path"), "it must be an absolute path"));
    }
    path(&format!("{field}.path"), hook.path())?;
    for (key, list) in [("args", hook.args()), ("env", hook.env())] {
        for (index, text) in list.iter().flatten().enumerate() {
            argument(|| format!("{field}.{key}[{index}]"), text)?;
        }
    }
    match hook.timeout() {
        Some(timeout) if timeout <= 0 => Err(invalid(format!("{field}.timeout"), "it must be greater than zero")),
        _ => Ok(()),
    }
}

/// Takes out what is accepted and does nothing, so that nobody behind takes it for a request. Labels and profiles keep a container
/// from the host's kernel, which a container in a micro-VM never meets; a caller that sets them on each container must not
/// fail for it.
pub(super) fn drop_what_has_no_effect(spec: &mut Spec) {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let told = |field: &str, present: bool| {
        if present {
            log::debug!("{field} has no effect: the guest's kernel has no such module");
        }
    };
    if let Some(process) = spec.process_mut() {
        told("process.apparmorProfile", given(process.apparmor_profile()));
        told("process.selinuxLabel", given(process.selinux_label()));
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
    }
    if let Some(linux) = spec.linux_mut() {
        told("linux.mountLabel", given(linux.mount_label()));
        linux.set_mount_label(None);
    }
    // An empty name is none.
    if spec.hostname().as_deref() == Some("") {
        spec.set_hostname(None);
    }
    if spec.domainname().as_deref() == Some("") {
        spec.set_domainname(None);
    }
}
