//! The `linux` section.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxResources,
};

use super::{BundleError, brief, check, invalid, refuse, seccomp};

/// The kernel's limit (user_namespaces(7)).
const MAPPINGS_MAX: usize = 340;
/// Each is a mount.
const PATHS_MAX: usize = 4096;
/// The largest device numbers of Linux.
const MAJOR_MAX: i64 = (1 << 12) - 1;
const MINOR_MAX: i64 = (1 << 20) - 1;
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

/// Whether the container has a namespace of this kind, new or joined.
pub(super) fn has(linux: Option<&Linux>, kind: LinuxNamespaceType) -> bool {
    linux.is_some_and(|linux| linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind))
}

/// Without the section there is no mount namespace either.
pub(super) fn check(linux: Option<&Linux>) -> Result<(), BundleError> {
    if !has(linux, LinuxNamespaceType::Mount) {
        return Err(invalid("linux.namespaces", "mount is missing: a container cannot change the guest's own mounts"));
    }
    let Some(linux) = linux else { return Ok(()) };
    namespaces(linux.namespaces().as_deref().unwrap_or_default())?;
    mappings(linux)?;
    time_offsets(linux)?;
    network_devices(linux)?;
    unsupported(linux)?;
    linux.devices().iter().flatten().enumerate().try_for_each(|(index, one)| device(index, one))?;
    linux.resources().as_ref().map_or(Ok(()), resources)?;
    linux.cgroups_path().iter().try_for_each(|path| check::path("linux.cgroupsPath", path))?;
    paths("linux.maskedPaths", linux.masked_paths())?;
    paths("linux.readonlyPaths", linux.readonly_paths())?;
    propagation(linux.rootfs_propagation().as_deref().unwrap_or_default())?;
    for (name, _) in linux.sysctl().iter().flatten() {
        sysctl(name)?;
    }
    linux.seccomp().as_ref().map_or(Ok(()), seccomp::check)
}

fn namespaces(list: &[LinuxNamespace]) -> Result<(), BundleError> {
    let mut seen = Vec::new();
    for (index, namespace) in list.iter().enumerate() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(invalid(format!("linux.namespaces[{index}].type"), format!("{kind} is given twice")));
        }
        seen.push(kind);
        let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
        let field = format!("linux.namespaces[{index}].path");
        if kind == LinuxNamespaceType::Mount {
            let reason = " (the container's root is made in a new mount namespace: in another container's its files are out of reach)";
            return Err(BundleError::Unsupported { field, reason });
        }
        // Whose they are is found out later.
        if !path.is_absolute() {
            return Err(invalid(field, "it must be an absolute path"));
        }
        check::path(&field, path)?;
    }
    Ok(())
}

/// Whether the container is to have a new one of this kind.
fn has_new(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    let new = |namespace: &LinuxNamespace| namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty());
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind && new(namespace))
}

fn mappings(linux: &Linux) -> Result<(), BundleError> {
    let user = has(Some(linux), LinuxNamespaceType::User);
    for (field, list) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())] {
        let list = list.as_deref().unwrap_or_default();
        if has_new(linux, LinuxNamespaceType::User) && list.is_empty() {
            return Err(invalid(field, "a new user namespace needs mappings"));
        }
        if !user && !list.is_empty() {
            return Err(invalid(field, "it needs a user namespace in linux.namespaces"));
        }
        if list.len() > MAPPINGS_MAX {
            return Err(invalid(field, format!("{} entries, and {MAPPINGS_MAX} are possible", list.len())));
        }
        list.iter().enumerate().try_for_each(|(index, one)| mapping(field, index, one))?;
    }
    Ok(())
}

fn mapping(field: &str, index: usize, mapping: &LinuxIdMapping) -> Result<(), BundleError> {
    let end = |first: u32| first.checked_add(mapping.size());
    let reason = match (mapping.size(), end(mapping.container_id()), end(mapping.host_id())) {
        (0, _, _) => "it is zero",
        (_, Some(_), Some(_)) => return Ok(()),
        _ => "the range goes beyond the last id",
    };
    Err(invalid(format!("{field}[{index}].size"), reason))
}

fn time_offsets(linux: &Linux) -> Result<(), BundleError> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{}", brief(clock));
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(invalid(field, "only monotonic and boottime have an offset"));
        }
        if offset.nanosecs().is_some_and(|nanosecs| nanosecs >= 1_000_000_000) {
            return Err(invalid(format!("{field}.nanosecs"), "it is a second or more"));
        }
        if !has_new(linux, LinuxNamespaceType::Time) {
            return Err(invalid("linux.timeOffsets", "it needs a new time namespace in linux.namespaces"));
        }
    }
    Ok(())
}

/// linux/if.h: IFNAMSIZ, with the NUL.
const INTERFACE_NAME_MAX: usize = 15;

/// "Network Devices" of config-linux.md.
fn network_devices(linux: &Linux) -> Result<(), BundleError> {
    let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) else { return Ok(()) };
    if !has(Some(linux), LinuxNamespaceType::Network) {
        return Err(invalid("linux.netDevices", "it needs a network namespace in linux.namespaces"));
    }
    let possible = |name: &str| {
        (1..=INTERFACE_NAME_MAX).contains(&name.len())
            && name != "."
            && name != ".."
            && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    };
    let mut taken = BTreeSet::new();
    for (name, device) in devices {
        let new_name = device.name().as_deref().filter(|new| !new.is_empty()).unwrap_or(name);
        if !possible(name) || !possible(new_name) {
            return Err(invalid("linux.netDevices", "an interface's name has 1 to 15 bytes, no slash, colon or space"));
        }
        if !taken.insert(new_name) {
            return Err(invalid("linux.netDevices", format!("two interfaces would be called {new_name:?}")));
        }
    }
    Ok(())
}

fn unsupported(linux: &Linux) -> Result<(), BundleError> {
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt", " (a guest has no access to the processor's cache control)")?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", " (a guest has one memory node)")
}

fn device(index: usize, device: &LinuxDevice) -> Result<(), BundleError> {
    let field = |key: &str| format!("linux.devices[{index}].{key}");
    if device.path().as_os_str().is_empty() {
        return Err(invalid(field("path"), "it is empty"));
    }
    check::path(&field("path"), device.path())?;
    match device.typ() {
        LinuxDeviceType::P => return Ok(()),
        LinuxDeviceType::A => return Err(invalid(field("type"), "a device is one of c, b, u and p")),
        LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {}
    }
    for (key, number, most) in [("major", device.major(), MAJOR_MAX), ("minor", device.minor(), MINOR_MAX)] {
        if !(0..=most).contains(&number) {
            return Err(invalid(field(key), format!("{number} is out of range (0 to {most})")));
        }
    }
    Ok(())
}

fn resources(resources: &LinuxResources) -> Result<(), BundleError> {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        let access = rule.access().as_deref().unwrap_or_default();
        if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
            // As with runc.
            log::warn!(
                "linux.resources.devices[{index}].access: {:?} holds other letters than r, w and m, which are ignored",
                brief(access)
            );
        }
    }
    limits_of_v1(resources)?;
    let rdma = resources.rdma().as_ref().is_some_and(|devices| !devices.is_empty());
    refuse(rdma, "linux.resources.rdma", " (a guest has no RDMA device)")?;
    memory(resources)?;
    processor(resources)?;
    block(resources)?;
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        if limit.limit() < 0 {
            return Err(invalid(format!("linux.resources.hugepageLimits[{index}].limit"), "it is negative"));
        }
    }
    for (name, _) in resources.unified().iter().flatten() {
        let field = || format!("linux.resources.unified.{}", brief(name));
        if name.contains('/') || name.starts_with('.') {
            return Err(invalid(field(), "a key is the name of a file of the cgroup, without a slash"));
        }
        if !name.contains('.') {
            return Err(invalid(field(), "the specified key has not the form CONTROLLER.VALUE"));
        }
    }
    Ok(())
}

/// What cgroup v2 has no file for. Zero and `false` ask for nothing.
#[allow(deprecated)] // to refuse or ignore what the specification has given up
fn limits_of_v1(resources: &LinuxResources) -> Result<(), BundleError> {
    let refuse = |present: bool, field: &str| {
        let reason = " (there is no such limit in cgroup v2, which the guest has)";
        refuse(present, &format!("linux.resources.{field}"), reason)
    };
    if let Some(memory) = resources.memory() {
        for (key, limit) in [("kernel", memory.kernel()), ("kernelTCP", memory.kernel_tcp())] {
            // As runc does since 1.1: the specification has given them up, and so has the kernel.
            if limit.is_some_and(|limit| limit > 0) {
                log::warn!("linux.resources.memory.{key}: limits of kernel memory are ignored");
            }
        }
        if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness > 100) {
            return Err(invalid(
                "linux.resources.memory.swappiness",
                format!("{swappiness} is out of range (0 to 100)"),
            ));
        }
        if memory.disable_oom_killer() == Some(true) {
            log::warn!(
                "linux.resources.memory.disableOOMKiller is ignored: in cgroup v2, which the guest has, nothing can wait for memory"
            );
        }
    }
    warn_of_realtime(resources);
    if let Some(block) = resources.block_io() {
        refuse(block.leaf_weight().is_some_and(|weight| weight != 0), "blockIO.leafWeight")?;
        for (index, device) in block.weight_device().iter().flatten().enumerate() {
            let present = device.leaf_weight().is_some_and(|weight| weight != 0);
            refuse(present, &format!("blockIO.weightDevice[{index}].leafWeight"))?;
        }
    }
    let Some(network) = resources.network() else { return Ok(()) };
    refuse(network.class_id().is_some_and(|id| id != 0), "network.classID")?;
    refuse(network.priorities().as_ref().is_some_and(|list| !list.is_empty()), "network.priorities")
}

/// As runc with cgroup v2, which takes such limits and has no file to write them to.
pub fn warn_of_realtime(resources: &LinuxResources) {
    let Some(cpu) = resources.cpu() else { return };
    let given = [
        ("realtimeRuntime", cpu.realtime_runtime().is_some_and(|time| time != 0)),
        ("realtimePeriod", cpu.realtime_period().is_some_and(|time| time != 0)),
    ];
    for (key, _) in given.iter().filter(|(_, given)| *given) {
        log::warn!(
            "linux.resources.cpu.{key} is ignored: in cgroup v2, which the guest has, realtime processes have no limit of their own"
        );
    }
}

fn memory(resources: &LinuxResources) -> Result<(), BundleError> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    for (key, value) in [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())] {
        if value.is_some_and(|value| value < -1) {
            let reason = "a negative number other than -1 (no limit) means nothing";
            return Err(invalid(format!("linux.resources.memory.{key}"), reason));
        }
    }
    Ok(())
}

fn processor(resources: &LinuxResources) -> Result<(), BundleError> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    for (key, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let text = list.as_deref().unwrap_or_default();
        if !text.bytes().all(|byte| byte.is_ascii_digit() || b"-, \n".contains(&byte)) {
            let reason = format!("{:?} is not a list such as 0-3,5", brief(text));
            return Err(invalid(format!("linux.resources.cpu.{key}"), reason));
        }
    }
    match cpu.idle() {
        Some(idle) if !(0..=1).contains(&idle) => {
            Err(invalid("linux.resources.cpu.idle", format!("{idle} is neither 0 nor 1")))
        }
        _ => Ok(()),
    }
}

fn block(resources: &LinuxResources) -> Result<(), BundleError> {
    let Some(block) = resources.block_io() else { return Ok(()) };
    let weight = |field: String, weight: Option<u16>| match weight {
        None | Some(0 | 10..=1000) => Ok(()),
        Some(weight) => Err(invalid(field, format!("{weight} is out of range (10 to 1000)"))),
    };
    weight("linux.resources.blockIO.weight".to_string(), block.weight())?;
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        weight(format!("linux.resources.blockIO.weightDevice[{index}].weight"), device.weight())?;
    }
    Ok(())
}

fn paths(field: &str, list: &Option<Vec<String>>) -> Result<(), BundleError> {
    let list = list.as_deref().unwrap_or_default();
    if list.len() > PATHS_MAX {
        return Err(invalid(field, format!("{} entries, and {PATHS_MAX} are possible", list.len())));
    }
    list.iter().enumerate().try_for_each(|(index, path)| check::path(&format!("{field}[{index}]"), Path::new(path)))
}

fn propagation(name: &str) -> Result<(), BundleError> {
    if name.is_empty() || PROPAGATIONS.contains(&name) {
        return Ok(());
    }
    let reason = format!("{:?} is not one of {}", brief(name), PROPAGATIONS.join(", "));
    Err(invalid("linux.rootfsPropagation", reason))
}

/// Its dots or slashes are the directories below /proc/sys, and none may lead out of it.
fn sysctl(name: &str) -> Result<(), BundleError> {
    let fits = name.len() < 256 && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let dotted = name.contains('/') || name.split('.').all(|part| !part.is_empty());
    if fits && dotted {
        return Ok(());
    }
    Err(invalid(format!("linux.sysctl.{}", brief(name)), "it is not the name of a kernel parameter"))
}
