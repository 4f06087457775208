//! Control groups and sysctls.

use std::fs;
use std::path::Path;

use super::{Report, content, failure};

pub(super) fn see(report: &mut Report) {
    control_group(report);
    sysctls(report);
    network(report);
}

/// What the container's group is set to, as far as the container has the group's files.
fn control_group(report: &mut Report) {
    // Whose the numbers of a name after `::` are is told by whether it is the root.
    let own = content("/proc/self/cgroup");
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("none");
    report.add("cgroup.path", if path == "/" { "/" } else { "a path" });
    let mount = Path::new("/sys/fs/cgroup");
    let mut group = mount.to_path_buf();
    if !group.join("cgroup.events").exists() {
        // A mount of the whole tree.
        group.push(path.trim_start_matches('/'));
    }
    report.add("cgroup.files", if group.join("cgroup.procs").exists() { "seen" } else { "not seen" });
    let Ok(entries) = fs::read_dir(&group) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let settings = [
            ".max",
            ".min",
            ".low",
            ".high",
            ".weight",
            ".weight.nice",
            ".idle",
            ".burst",
            ".group",
            ".type",
            ".controllers",
            ".subtree_control",
            ".cpus",
            ".mems",
            ".partition",
            ".effective",
            ".freeze",
            ".depth",
            ".descendants",
            ".latency",
            ".bfq.weight",
            ".min",
            ".zswap.writeback",
        ];
        if entry.path().is_file() && settings.iter().any(|end| name.ends_with(end)) {
            report.file(format!("cgroup:{name}"), entry.path());
        }
    }
    let writable = fs::OpenOptions::new().write(true).open(group.join("cgroup.procs"));
    report.add("cgroup.writable", writable.map_or_else(|error| failure(&error), |_| "yes".to_owned()));
    report.add("cgroup.processes", content(group.join("cgroup.procs")).lines().count());
}

const SYSCTLS: &[&str] = &[
    "kernel/hostname",
    "kernel/domainname",
    "kernel/shmmax",
    "kernel/shmall",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "fs/mqueue/msg_max",
    "fs/mqueue/msgsize_max",
    "fs/mqueue/queues_max",
    "fs/mqueue/msg_default",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/forwarding",
    "net/ipv4/conf/lo/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/lo/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/core/somaxconn",
];

fn sysctls(report: &mut Report) {
    for name in SYSCTLS {
        report.add(format!("sysctl:{name}"), content(format!("/proc/sys/{name}")).replace('\t', " "));
    }
    for name in
        ["kernel/hostname", "kernel/msgmax", "net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/core_pattern"]
    {
        let path = format!("/proc/sys/{name}");
        let writable = fs::OpenOptions::new().write(true).open(path);
        report.add(
            format!("sysctl writable:{name}"),
            writable.map_or_else(|error| failure(&error), |_| "yes".to_owned()),
        );
    }
    let names = rustix::system::uname();
    report.add("name.host", names.nodename().to_string_lossy());
    report.add("name.domain", names.domainname().to_string_lossy());
    report.add("name.machine", names.machine().to_string_lossy());
}

fn network(report: &mut Report) {
    let mut interfaces: Vec<String> = match fs::read_dir("/sys/class/net") {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) => vec![failure(&error)],
    };
    interfaces.sort();
    report.add("network.interfaces", interfaces.join(" "));
    report.file("network.lo.flags", "/sys/class/net/lo/flags");
    report.file("network.lo.mtu", "/sys/class/net/lo/mtu");
    report.add("network.routes", content("/proc/net/route").lines().count().saturating_sub(1));
    let loopback = std::net::TcpListener::bind("127.0.0.1:0");
    report.add("network.loopback", loopback.map_or_else(|error| failure(&error), |_| "works".to_owned()));
}
