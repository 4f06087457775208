//! Other limits for a container that runs: what is left out stays as it is.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use agent_protocol::cgroup as convert;
use oci_spec::runtime::LinuxResources;

use super::resources::Guest;
use super::{Cgroup, Error};
use crate::process::affinity;

/// This guest, for one of its cgroups.
pub fn guest(cgroup: &Path) -> Guest {
    Guest {
        cpus: affinity::present(),
        has_device: |name| Path::new("/sys/dev/block").join(name).exists(),
        bfq: cgroup.join("io.bfq.weight").exists(),
    }
}

impl Cgroup {
    /// Changes the limits. Where an object has devices, they replace all rules that were.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let resources = completed(resources.clone(), self.path());
        self.check_usage(&resources)?;
        self.apply(&resources)?;
        match resources.devices() {
            Some(rules) => self.decide_devices(rules, self.open("")?.as_fd()),
            None => Ok(()),
        }
    }

    fn check_usage(&self, resources: &LinuxResources) -> Result<(), Error> {
        let Some(memory) = resources.memory().filter(|m| m.check_before_update() == Some(true)) else { return Ok(()) };
        let usage = fs::read_to_string(self.path().join("memory.current")).unwrap_or_default();
        let usage: i64 = usage.trim_end().parse().unwrap_or(0);
        match memory.limit() {
            Some(limit) if limit > 0 && limit < usage => {
                let problem = format!("{limit} is less than what is in use, {usage}");
                Err(Error::Resource { field: "memory.limit".to_owned(), problem })
            }
            _ => Ok(()),
        }
    }
}

/// Some files hold two limits, and the limit of swap depends on that of memory: the half that is left out is what it was.
fn completed(mut resources: LinuxResources, cgroup: &Path) -> LinuxResources {
    let text = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    if let Some(mut cpu) = resources.cpu().clone() {
        let (quota, period) = convert::cpu_max(cpu.quota(), cpu.period(), &text("cpu.max"));
        cpu.set_quota(quota).set_period(period);
        resources.set_cpu(Some(cpu));
    }
    if let Some(mut memory) = *resources.memory() {
        if memory.swap().is_some_and(|s| s > 0) && memory.limit().unwrap_or(0) == 0 {
            memory.set_limit(text("memory.max").trim_end().parse().ok());
        }
        resources.set_memory(Some(memory));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_completed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu.max"), "50000 200000\n").unwrap();
        fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
        let complete = |json: &str| completed(serde_json::from_str(json).unwrap(), dir.path());
        let cpu = |json: &str| complete(json).cpu().as_ref().map(|c| (c.quota(), c.period()));
        assert_eq!(cpu(r#"{"cpu":{"quota":7}}"#), Some((Some(7), Some(200_000))));
        assert_eq!(cpu(r#"{"cpu":{"period":7}}"#), Some((Some(50_000), Some(7))));
        assert_eq!(cpu(r#"{"cpu":{"quota":1,"period":7}}"#), Some((Some(1), Some(7))));
        assert_eq!(cpu(r#"{"cpu":{"shares":7}}"#), Some((None, None)));
        let memory = |json: &str| complete(json).memory().and_then(|m| m.limit());
        assert_eq!(memory(r#"{"memory":{"swap":2000}}"#), Some(1000));
        assert_eq!(memory(r#"{"memory":{"swap":-1}}"#), None);
        assert_eq!(memory(r#"{"memory":{"limit":5,"swap":9}}"#), Some(5));
    }
}
