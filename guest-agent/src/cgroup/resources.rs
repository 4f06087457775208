//! linux.resources as writes to cgroup v2 files.
//!
//! What only cgroup v1 has (kernel memory, swappiness, the OOM killer's switch, realtime CPU, leaf weights, network classes) is
//! left out, as runc does on cgroup v2. Numbers of CPUs, memory nodes and block devices are the host's: see [`Guest`].

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Error, convert};
use crate::process::affinity;

/// File and value, in the order to write them.
pub type Settings = Vec<(String, String)>;

fn refuse<T>(field: &str, problem: &str) -> Result<T, Error> {
    Err(Error::Resource { field: field.to_owned(), problem: problem.to_owned() })
}

/// What of the host's hardware the guest has.
pub struct Guest {
    /// CPUs, from 0 on.
    pub cpus: usize,
    /// Whether there is a block device with these numbers. Limits of others are the host's to apply.
    pub has_device: fn(&str) -> bool,
    /// Whether block devices are weighed by BFQ, which takes the specification's weights.
    pub bfq: bool,
}

/// Everything but the device rules.
pub fn settings(resources: &LinuxResources, guest: &Guest) -> Result<Settings, Error> {
    let mut out = Settings::new();
    resources.memory().as_ref().map_or(Ok(()), |m| memory(m, &mut out))?;
    resources.cpu().as_ref().map_or(Ok(()), |c| cpu(c, guest, &mut out))?;
    match resources.pids().map_or(0, |p| p.limit()) {
        0 => {}
        limit => set(&mut out, "pids.max", convert::limit(limit)),
    }
    if let Some(io) = resources.block_io() {
        block_io(io, guest, &mut out);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugepages(limit, &mut out)?;
    }
    if resources.rdma().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return refuse("rdma", "a guest has no RDMA device");
    }
    unified(resources, guest, &mut out)?;
    Ok(out)
}

fn set(out: &mut Settings, file: &str, value: impl ToString) {
    out.push((file.to_owned(), value.to_string()));
}

fn memory(memory: &LinuxMemory, out: &mut Settings) -> Result<(), Error> {
    match convert::swap(memory.limit(), memory.swap().unwrap_or(0)) {
        Ok(Some(value)) => set(out, "memory.swap.max", value),
        Ok(None) => {}
        Err(problem) => return refuse("memory.swap", problem),
    }
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        set(out, "memory.max", convert::limit(limit));
    }
    if let Some(low) = memory.reservation().filter(|r| *r != 0) {
        set(out, "memory.low", convert::limit(low));
    }
    Ok(())
}

fn cpu(cpu: &LinuxCpu, guest: &Guest, out: &mut Settings) -> Result<(), Error> {
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
        set(out, "cpuset.cpus", cpu_list("cpu.cpus", cpus, guest)?);
    }
    if let Some(mems) = cpu.mems().as_deref().filter(|m| !m.is_empty()) {
        set(out, "cpuset.mems", memory_nodes("cpu.mems", mems)?);
    }
    Ok(())
}

fn cpu_list(field: &str, text: &str, guest: &Guest) -> Result<String, Error> {
    match affinity::parse(text) {
        Ok(cpus) => {
            let cpus = affinity::translate(&cpus, guest.cpus);
            Ok(cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
        }
        Err(problem) => refuse(field, &problem),
    }
}

/// The guest has one node, whichever it is on the host.
fn memory_nodes(field: &str, text: &str) -> Result<&'static str, Error> {
    affinity::parse(text).map(|_| "0").or_else(|problem| refuse(field, &problem))
}

fn block_io(io: &LinuxBlockIo, guest: &Guest, out: &mut Settings) {
    let (file, weigh): (_, fn(u16) -> u64) =
        if guest.bfq { ("io.bfq.weight", u64::from) } else { ("io.weight", convert::io_weight) };
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        set(out, file, format!("default {}", weigh(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        let name = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|w| *w != 0 && (guest.has_device)(&name)) {
            set(out, file, format!("{name} {}", weigh(weight)));
        }
    }
    let mut throttle = |key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let name = format!("{}:{}", device.major(), device.minor());
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            if (guest.has_device)(&name) {
                set(out, "io.max", format!("{name} {key}={rate}"));
            }
        }
    };
    throttle("rbps", io.throttle_read_bps_device());
    throttle("wbps", io.throttle_write_bps_device());
    throttle("riops", io.throttle_read_iops_device());
    throttle("wiops", io.throttle_write_iops_device());
}

fn hugepages(limit: &LinuxHugepageLimit, out: &mut Settings) -> Result<(), Error> {
    let size = limit.page_size();
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return refuse("hugepageLimits.pageSize", "must be a size such as 2MB");
    }
    // What is used, and what is promised: a program that asks for too much is to be told at once, and not to be killed when it uses it.
    for file in [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")] {
        set(out, &file, convert::limit(limit.limit()));
    }
    Ok(())
}

fn unified(resources: &LinuxResources, guest: &Guest, out: &mut Settings) -> Result<(), Error> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        // A file of the container's own cgroup, of a controller: cgroup.procs and its like are not limits.
        let name_ok = file.contains('.') && !file.contains('/') && !file.starts_with('.');
        if !name_ok || file.starts_with("cgroup.") && file != "cgroup.max.descendants" && file != "cgroup.max.depth" {
            return refuse("unified", &format!("{file:?} is not the file of a limit"));
        }
        for line in value.lines() {
            let device = line.split_ascii_whitespace().next().filter(|word| word.contains(':'));
            match file.as_str() {
                "cpuset.cpus" => set(out, file, cpu_list("unified", line, guest)?),
                "cpuset.mems" => set(out, file, memory_nodes("unified", line)?),
                _ if file.starts_with("io.") && device.is_some_and(|d| !(guest.has_device)(d)) => {}
                _ => set(out, file, line),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
