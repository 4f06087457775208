//! The mounts, in order.

use std::path::Path;

use super::{Report, content};

/// File systems whose mounts say which directory of theirs they show; elsewhere it is a path of the host.
const ROOTS_SHOWN: &[&str] = &["proc", "sysfs", "cgroup2", "mqueue", "devpts", "tmpfs"];

pub(super) fn see(report: &mut Report) {
    let mut order = Vec::new();
    let mut groups: Vec<String> = Vec::new();
    for line in content("/proc/self/mountinfo").lines() {
        let Some((mount, system)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        let (&[_, _, _, root, point, options, ref propagation @ ..], &[kind, source, ref super_options @ ..]) =
            (mount.as_slice(), system.as_slice())
        else {
            continue;
        };
        // It is there to be masked where a machine has ACPI.
        if point != "/proc/acpi" {
            order.push(point.to_owned());
        }
        report.add(format!("mount:{point}:type"), kind);
        report.add(format!("mount:{point}:options"), options);
        report.add(format!("mount:{point}:source"), source);
        // Those of a cgroup hierarchy are the machine's: whoever mounts it last in the first namespace sets them.
        if kind != "cgroup2" {
            report.add(format!("mount:{point}:super options"), super_options.join(" "));
        }
        // Peer groups have numbers of the kernel's choice.
        let mut kinds: Vec<&str> = Vec::new();
        for tag in propagation {
            kinds.push(tag.split(':').next().unwrap_or(tag));
            groups.push((*tag).to_owned());
        }
        report.add(
            format!("mount:{point}:propagation"),
            if kinds.is_empty() { "private".to_owned() } else { kinds.join(" ") },
        );
        if ROOTS_SHOWN.contains(&kind) && !root.starts_with("/..") {
            report.add(format!("mount:{point}:directory shown"), root);
        }
        let stat = rustix::fs::stat(Path::new(point));
        if let Ok(stat) = stat {
            report.add(
                format!("mount:{point}:mode"),
                format!("{:o} {}:{}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            );
        }
    }
    report.add("mounts", order.join(" "));
}
