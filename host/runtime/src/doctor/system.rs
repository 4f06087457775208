//! The host's kernel, its devices, its cgroups.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::StatFs;
use rustix::thread::CapabilitySet;

use super::Finding;
use crate::error::Plain;

/// The first kernel with all that the jail uses: mount_setattr(2) came in 5.12, MOUNT_ATTR_NOSYMFOLLOW in 5.14.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

const CGROUPS: &str = "/sys/fs/cgroup";
/// Controllers that containers are commonly limited by.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Version of the host's kernel.
pub fn kernel() -> Finding {
    let subject = "host kernel";
    let release = match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_owned(),
        Err(err) => {
            return Finding::fail(subject, format!("cannot read its version: {}: mount /proc", Plain(&err)));
        }
    };
    if version(&release).is_some_and(|found| found >= OLDEST_KERNEL) {
        return Finding::ok(subject, release);
    }
    let (major, minor) = OLDEST_KERNEL;
    Finding::fail(subject, format!("{release} is too old: {major}.{minor} or newer is needed"))
}

pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether this user may make the monitor's jail.
pub fn privileges() -> Finding {
    match rustix::thread::capabilities(None) {
        Ok(sets) if sets.effective.contains(CapabilitySet::SYS_ADMIN) => Finding::ok("privileges", "CAP_SYS_ADMIN"),
        _ => Finding::fail("privileges", "no CAP_SYS_ADMIN, which the monitor's jail is made with: run as root"),
    }
}

/// Devices beside /dev/kvm: containers without a network do without them.
pub fn devices() -> Vec<Finding> {
    let device = |path: &str, without: &str| match File::options().read(true).write(true).open(path) {
        Ok(_) => Finding::ok(path, "can be opened"),
        Err(err) => Finding::warn(path, format!("{}: {without}", Plain(&err))),
    };
    vec![
        device("/dev/net/tun", "containers can have no network but lo; load the kernel module tun"),
        device("/dev/vhost-net", "the network of containers is slower; load the kernel module vhost_net"),
    ]
}

/// Version of the cgroup hierarchy, and the controllers in it.
pub fn cgroups() -> Finding {
    let is_v2 = |path: &str| rustix::fs::statfs(path).is_ok_and(|fs: StatFs| fs.f_type == libc::CGROUP2_SUPER_MAGIC);
    let found = if is_v2(CGROUPS) {
        fs::read_to_string(Path::new(CGROUPS).join("cgroup.controllers")).map(|text| ("v2", words(&text)))
    } else {
        let layout = if is_v2("/sys/fs/cgroup/unified") { "hybrid" } else { "v1" };
        fs::read_to_string("/proc/cgroups").map(|text| (layout, mounted_v1(&text)))
    };
    judge_cgroups(found)
}

fn judge_cgroups(found: io::Result<(&str, Vec<String>)>) -> Finding {
    let subject = "cgroups";
    let (layout, controllers) = match found {
        Ok(found) => found,
        Err(err) => return Finding::warn(subject, format!("none ({}): limits will not hold", Plain(&err))),
    };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !controllers.iter().any(|c| c == name)).collect();
    let text = format!("{layout} with {}", controllers.join(" "));
    if missing.is_empty() {
        Finding::ok(subject, text)
    } else {
        Finding::warn(
            subject,
            format!("{text}; no {}: mount or enable them, or their limits will not hold", missing.join(" ")),
        )
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Names in /proc/cgroups whose hierarchy is mounted: the second column is not 0.
pub(super) fn mounted_v1(table: &str) -> Vec<String> {
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next()?;
            (columns.next()? != "0").then(|| name.to_owned())
        })
        .collect()
}
