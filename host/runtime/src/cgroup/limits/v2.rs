//! For cgroup v2.

use agent_protocol::cgroup as convert;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{CgroupError, Host, Overhead, Setting, Writes, refuse, throttles};

pub fn settings(resources: &LinuxResources, host: &Host<'_>) -> Result<Vec<Setting>, CgroupError> {
    let mut list = Vec::new();
    if let Some(given) = resources.memory() {
        memory(given, host.overhead, &mut Writes { controller: "memory", list: &mut list })?;
    }
    if let Some(given) = resources.cpu() {
        cpu(given, &mut list);
    }
    if let Some(given) = resources.block_io() {
        block_io(given, host, &mut Writes { controller: "io", list: &mut list });
    }
    unified(resources, host.overhead, &mut list)?;
    Ok(list)
}

fn memory(memory: &LinuxMemory, overhead: Overhead, out: &mut Writes<'_>) -> Result<(), CgroupError> {
    let sized = |given: Option<i64>, size: &dyn Fn(u64) -> u64| {
        let given = given.filter(|given| *given != 0)?;
        Some(u64::try_from(given).map_or("max".to_owned(), |given| size(given).to_string()))
    };
    out.given("memory.max", sized(memory.limit(), &|given| overhead.limit(given)));
    match convert::swap(memory.limit(), memory.swap().unwrap_or(0)) {
        Ok(value) => out.given("memory.swap.max", value),
        Err(problem) => return refuse("memory.swap", problem),
    }
    out.given("memory.low", sized(memory.reservation(), &|given| overhead.soft(given)));
    Ok(())
}

fn cpu(cpu: &LinuxCpu, list: &mut Vec<Setting>) {
    let mut out = Writes { controller: "cpu", list };
    if let Some(idle) = cpu.idle() {
        out.set("cpu.idle", idle);
    }
    // An idle group's weight cannot be set.
    let shares = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1));
    out.given("cpu.weight", shares.map(convert::cpu_weight));
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { 100_000 } else { period };
        out.set("cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst() {
        out.set("cpu.max.burst", burst);
    }
    out.controller = "cpuset";
    out.given("cpuset.cpus", cpu.cpus().clone());
    out.given("cpuset.mems", cpu.mems().clone());
}

/// BFQ takes the specification's weights; where it is not built in, io.weight does, converted.
fn block_io(io: &LinuxBlockIo, host: &Host<'_>, out: &mut Writes<'_>) {
    let (file, weigh): (_, fn(u16) -> u64) = if (host.has_file)("io", "io.bfq.weight") {
        ("io.bfq.weight", u64::from)
    } else {
        ("io.weight", convert::io_weight)
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        out.set(file, format!("default {}", weigh(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            out.set(file, format!("{}:{} {}", device.major(), device.minor(), weigh(weight)));
        }
    }
    for (_, key, device) in throttles(io) {
        let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
        out.set("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()));
    }
}

/// Files given by name: those of the controllers that count on the host.
fn unified(resources: &LinuxResources, overhead: Overhead, list: &mut Vec<Setting>) -> Result<(), CgroupError> {
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        if file.contains('/') {
            return refuse("unified", "a name in it is not that of a file");
        }
        let Some(controller) = ["cpu", "cpuset", "io", "memory"]
            .into_iter()
            .find(|c| file.split_once('.').is_some_and(|(first, _)| first == *c))
        else {
            continue;
        };
        let mut out = Writes { controller, list };
        for line in value.lines() {
            let size = bytes(line);
            match (file.as_str(), size) {
                ("memory.max" | "memory.high", Some(size)) => out.set(file, overhead.limit(size)),
                ("memory.min" | "memory.low", Some(size)) => out.set(file, overhead.soft(size)),
                _ => out.set(file, line),
            }
        }
    }
    Ok(())
}

/// A size as the kernel reads it: a number and possibly a unit.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
