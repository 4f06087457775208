//! Block devices of the host: config.json has the host's numbers, and the guest has its own.

use std::fs;
use std::io;
use std::path::Path;

use agent_protocol::agent::BlockDevice;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};

use super::{Error, step};

const DISKS: &str = "/sys/block";
/// What the kernel's driver calls its disks; others have no serial, or a container's.
const PREFIX: &str = "vd";

/// A block device of the host, and the guest's numbers for it.
struct Disk {
    host: BlockDevice,
    major: i64,
    minor: i64,
}

impl Disk {
    fn is(&self, typ: Option<LinuxDeviceType>, major: Option<i64>, minor: Option<i64>) -> bool {
        let host = (Some(LinuxDeviceType::B), Some(i64::from(self.host.major)), Some(i64::from(self.host.minor)));
        (typ, major, minor) == host
    }

    fn rule(&self, allow: bool, access: &str) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(Some(LinuxDeviceType::B));
        rule.set_major(Some(self.major)).set_minor(Some(self.minor)).set_access(Some(access.to_owned()));
        rule
    }
}

/// The block devices of the host that a container has.
pub struct Disks(Vec<Disk>);

impl Disks {
    /// Finds those of `devices`; the guest's kernel has made them all before the agent started.
    pub fn find(devices: &[BlockDevice]) -> Result<Disks, Error> {
        if devices.is_empty() {
            return Ok(Disks(Vec::new()));
        }
        let numbers = serials().map_err(step("list the guest's block devices"))?;
        let find = |host: &BlockDevice| {
            let serial = format!("{}:{}", host.major, host.minor);
            let missing = || io::Error::from(io::ErrorKind::NotFound);
            let found = numbers.iter().find(|(known, _)| *known == serial).ok_or_else(missing);
            let (_, (major, minor)) = *found.map_err(step(format!("find the host's block device {serial}")))?;
            Ok(Disk { host: host.clone(), major, minor })
        };
        devices.iter().map(find).collect::<Result<_, _>>().map(Disks)
    }

    /// Puts the guest's numbers into linux.devices and linux.resources.devices.
    pub fn translate(&self, spec: &mut Spec) {
        let Some(linux) = spec.linux_mut() else { return };
        for device in linux.devices_mut().iter_mut().flatten() {
            let is_it = |disk: &&Disk| disk.is(Some(device.typ()), Some(device.major()), Some(device.minor()));
            if let Some(disk) = self.0.iter().find(is_it) {
                device.set_major(disk.major);
                device.set_minor(disk.minor);
            }
        }
        linux.resources_mut().iter_mut().for_each(|resources| self.translate_rules(resources));
    }

    /// Puts them into rules; where there are none, none come.
    pub fn translate_rules(&self, resources: &mut LinuxResources) {
        let Some(rules) = resources.devices_mut() else { return };
        rules.retain(|rule| !self.0.iter().any(|disk| disk.is(rule.typ(), rule.major(), rule.minor())));
        // Last, so that they count, whatever the others say of the same numbers, which are the host's.
        for disk in &self.0 {
            rules.push(disk.rule(false, "rwm"));
            rules.push(disk.rule(true, &disk.host.access));
        }
    }
}

/// Serial and numbers of each disk that the host gave.
fn serials() -> io::Result<Vec<(String, (i64, i64))>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DISKS)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.extend(identity(&entry.path()));
        }
    }
    Ok(found)
}

fn identity(disk: &Path) -> Option<(String, (i64, i64))> {
    let read = |file: &str| fs::read_to_string(disk.join(file)).ok();
    let numbers = read("dev")?;
    let (major, minor) = numbers.trim_end().split_once(':')?;
    Some((read("serial")?, (major.parse().ok()?, minor.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host(major: u32, minor: u32, access: &str) -> BlockDevice {
        BlockDevice { major, minor, access: access.to_owned(), ..Default::default() }
    }

    #[test]
    fn nodes_and_rules_get_the_guests_numbers() {
        let node =
            |typ: &str, major: u32, minor: u32| json!({"path": "/dev/x", "type": typ, "major": major, "minor": minor});
        let rule = |allow: bool, typ: &str, major: u32, minor: u32, access: &str| json!({"allow": allow, "type": typ, "major": major, "minor": minor, "access": access});
        let all = json!({"allow": false, "access": "rwm"});
        let mut spec: Spec = serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": {
            "devices": [node("b", 7, 0), node("b", 254, 0), node("c", 7, 0), node("b", 7, 1), node("b", 7, 0)],
            "resources": {"pids": {"limit": 9}, "devices":
                [all, rule(true, "b", 7, 0, "rw"), rule(true, "c", 7, 0, "r"), rule(true, "b", 254, 0, "rwm")]}}}))
        .unwrap();
        // The host's number of the one is the guest's of the other.
        let disk = |host, minor| Disk { host, major: 254, minor };
        Disks(vec![disk(host(7, 0, "rw"), 0), disk(host(254, 0, "r"), 16)]).translate(&mut spec);
        let linux = serde_json::to_value(spec.linux()).unwrap();
        let numbers = |device: &Value| (device["major"].as_i64().unwrap(), device["minor"].as_i64().unwrap());
        let devices: Vec<_> = linux["devices"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(devices, [(254, 0), (254, 16), (7, 0), (7, 1), (254, 0)]);
        let expected = json!([
            all,
            rule(true, "c", 7, 0, "r"),
            rule(false, "b", 254, 0, "rwm"),
            rule(true, "b", 254, 0, "rw"),
            rule(false, "b", 254, 16, "rwm"),
            rule(true, "b", 254, 16, "r")
        ]);
        assert_eq!(linux["resources"]["devices"], expected);
        assert_eq!(linux["resources"]["pids"]["limit"], 9);
    }

    #[test]
    fn a_disk_is_known_by_its_serial() {
        let disk = tempfile::tempdir().unwrap();
        assert_eq!(identity(disk.path()), None);
        fs::write(disk.path().join("dev"), "254:16\n").unwrap();
        assert_eq!(identity(disk.path()), None);
        fs::write(disk.path().join("serial"), "7:0").unwrap();
        assert_eq!(identity(disk.path()), Some(("7:0".to_owned(), (254, 16))));
        fs::write(disk.path().join("dev"), "254\n").unwrap();
        assert_eq!(identity(disk.path()), None);
    }

    #[test]
    fn without_any_nothing_is_looked_for() {
        let mut spec = Spec::default();
        Disks::find(&[]).unwrap().translate(&mut spec);
        assert_eq!(spec, Spec::default());
        let error = Disks::find(&[host(4000, 1, "rw")]).err().unwrap().to_string();
        assert!(error.contains("4000:1") || error.contains("list"), "{error}");
    }
}
