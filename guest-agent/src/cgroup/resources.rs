//! linux.resources as writes to cgroup v2 files.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Error, convert};

/// File and value, in the order to write them.
pub type Settings = Vec<(String, String)>;

fn refuse<T>(field: &str, problem: &str) -> Result<T, Error> {
    Err(Error::Resource { field: field.to_owned(), problem: problem.to_owned() })
}

const V1_ONLY: &str = "cgroup v2, which the guest has, knows no such limit";

/// Everything but the device rules.
pub fn settings(resources: &LinuxResources) -> Result<Settings, Error> {
    let mut out = Settings::new();
    resources.memory().as_ref().map_or(Ok(()), |m| memory(m, &mut out))?;
    resources.cpu().as_ref().map_or(Ok(()), |c| cpu(c, &mut out))?;
    match resources.pids().map_or(0, |p| p.limit()) {
        0 => {}
        limit => set(&mut out, "pids.max", convert::limit(limit)),
    }
    resources.block_io().as_ref().map_or(Ok(()), |b| block_io(b, &mut out))?;
    for limit in resources.hugepage_limits().iter().flatten() {
        hugepages(limit, &mut out)?;
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|c| c != 0) || network.priorities().as_ref().is_some_and(|p| !p.is_empty()))
    {
        return refuse("network", V1_ONLY);
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        let value = |v: Option<u32>| v.map_or("max".to_owned(), |v| v.to_string());
        let (handles, objects) = (value(limit.hca_handles()), value(limit.hca_objects()));
        set(&mut out, "rdma.max", format!("{device} hca_handle={handles} hca_object={objects}"));
    }
    unified(resources, &mut out)?;
    Ok(out)
}

fn set(out: &mut Settings, file: &str, value: impl ToString) {
    out.push((file.to_owned(), value.to_string()));
}

#[allow(deprecated)] // to refuse the fields that the specification has given up
fn memory(memory: &LinuxMemory, out: &mut Settings) -> Result<(), Error> {
    for (field, value) in [("memory.kernel", memory.kernel()), ("memory.kernelTCP", memory.kernel_tcp())] {
        if value.is_some_and(|v| v > 0) {
            return refuse(field, V1_ONLY);
        }
    }
    if memory.swappiness().is_some() {
        return refuse("memory.swappiness", V1_ONLY);
    }
    if memory.disable_oom_killer() == Some(true) {
        return refuse("memory.disableOOMKiller", V1_ONLY);
    }
    // useHierarchy: v2 always does. checkBeforeUpdate: there is no usage before the first process.
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        set(out, "memory.max", convert::limit(limit));
    }
    match convert::swap(memory.limit(), memory.swap().unwrap_or(0)) {
        Ok(Some(value)) => set(out, "memory.swap.max", value),
        Ok(None) => {}
        Err(problem) => return refuse("memory.swap", problem),
    }
    if let Some(low) = memory.reservation().filter(|r| *r != 0) {
        set(out, "memory.low", convert::limit(low));
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu, out: &mut Settings) -> Result<(), Error> {
    if cpu.realtime_runtime().is_some_and(|v| v != 0) || cpu.realtime_period().is_some_and(|v| v != 0) {
        return refuse("cpu.realtimeRuntime", V1_ONLY);
    }
    if let Some(idle) = cpu.idle() {
        set(out, "cpu.idle", idle);
    }
    // The weight of an idle group cannot be set.
    if let Some(shares) = cpu.shares().filter(|s| *s != 0 && cpu.idle() != Some(1)) {
        set(out, "cpu.weight", convert::cpu_weight(shares));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { 100_000 } else { period };
        set(out, "cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst() {
        set(out, "cpu.max.burst", burst);
    }
    if let Some(cpus) = cpu.cpus().as_deref().filter(|c| !c.is_empty()) {
        set(out, "cpuset.cpus", cpus);
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|m| !m.is_empty()) {
        set(out, "cpuset.mems", mems);
    }
    Ok(())
}

fn block_io(io: &LinuxBlockIo, out: &mut Settings) -> Result<(), Error> {
    if io.leaf_weight().is_some_and(|w| w != 0) {
        return refuse("blockIO.leafWeight", V1_ONLY);
    }
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        set(out, "io.weight", format!("default {}", convert::io_weight(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|w| w != 0) {
            return refuse("blockIO.weightDevice.leafWeight", V1_ONLY);
        }
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let (major, minor) = (device.major(), device.minor());
            set(out, "io.weight", format!("{major}:{minor} {}", convert::io_weight(weight)));
        }
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            set(out, "io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()));
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
    Ok(())
}

fn hugepages(limit: &LinuxHugepageLimit, out: &mut Settings) -> Result<(), Error> {
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return refuse("hugepageLimits.pageSize", "must be a size such as 2MB");
    }
    set(out, &format!("hugetlb.{size}.max"), convert::limit(limit.limit()));
    Ok(())
}

fn unified(resources: &LinuxResources, out: &mut Settings) -> Result<(), Error> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        // A file of the container's own cgroup, of a controller: cgroup.procs and its like are not limits.
        let name_ok = file.contains('.') && !file.contains('/') && !file.starts_with('.');
        if !name_ok || file.starts_with("cgroup.") && file != "cgroup.max.descendants" && file != "cgroup.max.depth" {
            return refuse("unified", &format!("{file:?} is not the file of a limit"));
        }
        for line in value.lines() {
            set(out, file, line);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
