//! For cgroup v1, in whose terms the specification is written.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{CgroupError, Host, Overhead, Setting, Writes, throttles};

pub fn settings(resources: &LinuxResources, host: &Host<'_>) -> Result<Vec<Setting>, CgroupError> {
    let mut list = Vec::new();
    if let Some(given) = resources.memory() {
        memory(given, host.overhead, &mut Writes { controller: "memory", list: &mut list });
    }
    if let Some(given) = resources.cpu() {
        cpu(given, &mut list);
    }
    if let Some(given) = resources.block_io() {
        block_io(given, host, &mut Writes { controller: "blkio", list: &mut list });
    }
    Ok(list)
}

fn memory(memory: &LinuxMemory, overhead: Overhead, out: &mut Writes<'_>) {
    let limit_of = |given: i64| u64::try_from(given).map_or("-1".to_owned(), |given| overhead.limit(given).to_string());
    let given = memory.limit().filter(|limit| *limit != 0);
    // The limit of both does not let that of memory go.
    let swap = memory.swap().filter(|swap| *swap != 0).or(given.filter(|limit| *limit < 0));
    out.given("memory.limit_in_bytes", given.map(limit_of));
    if let Some(both) = swap {
        let value = match (u64::try_from(both), given.and_then(|limit| u64::try_from(limit).ok())) {
            (Ok(both), Some(limit)) => overhead.limit(limit).saturating_add(both.saturating_sub(limit)).to_string(),
            _ => limit_of(both),
        };
        out.set("memory.memsw.limit_in_bytes", value);
    }
    let soft = memory.reservation().map(|soft| u64::try_from(soft).map_or(soft, |soft| overhead.soft(soft) as i64));
    out.given("memory.soft_limit_in_bytes", soft.filter(|_| memory.reservation() != Some(0)));
    if let Some(swappiness) = memory.swappiness() {
        out.set("memory.swappiness", swappiness);
    }
}

fn cpu(cpu: &LinuxCpu, list: &mut Vec<Setting>) {
    let mut out = Writes { controller: "cpu", list };
    if let Some(idle) = cpu.idle() {
        out.set("cpu.idle", idle);
    }
    // An idle group's weight cannot be set.
    out.given("cpu.shares", cpu.shares().filter(|_| cpu.idle() != Some(1)));
    out.given("cpu.cfs_period_us", cpu.period());
    out.given("cpu.cfs_quota_us", cpu.quota());
    if let Some(burst) = cpu.burst() {
        out.set("cpu.cfs_burst_us", burst);
    }
    out.controller = "cpuset";
    out.given("cpuset.cpus", cpu.cpus().clone());
    out.given("cpuset.mems", cpu.mems().clone());
}

fn block_io(io: &LinuxBlockIo, host: &Host<'_>, out: &mut Writes<'_>) {
    let kind = if (host.has_file)("blkio", "blkio.weight") { "blkio" } else { "blkio.bfq" };
    out.given(&format!("{kind}.weight"), io.weight());
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            out.set(&format!("{kind}.weight_device"), format!("{}:{} {weight}", device.major(), device.minor()));
        }
    }
    for (file, _, device) in throttles(io) {
        out.set(file, format!("{}:{} {}", device.major(), device.minor(), device.rate()));
    }
}
