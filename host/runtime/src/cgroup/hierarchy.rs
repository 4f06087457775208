//! Which cgroup hierarchies this process sees, and where in them it is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, removal};
use crate::mountinfo;

/// The controllers of v1 whose hierarchies a container gets a cgroup in, as with other runtimes; systemd's own, which has a
/// name only, too.
const V1: [&str; 14] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    SYSTEMD,
];
/// systemd's own in v1.
pub const SYSTEMD: &str = "name=systemd";

/// Where Linux distributions mount them. A second mount elsewhere is somebody's own, such as another container's.
const USUAL: &str = "/sys/fs/cgroup";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1: at least one. v2: none.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The cgroup of this process in it, below the mount point.
    pub own: PathBuf,
}

impl Hierarchy {
    /// It is that of cgroup v2.
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// All hierarchies that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// v2 has all the controllers: there is one hierarchy.
    pub unified: bool,
    /// v1 ones in the order of their mounts, then that of v2.
    pub list: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Those of this process.
    pub fn find() -> Result<Self, CgroupError> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|source| CgroupError::Read { path: PathBuf::from(path), source })
        };
        Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
    }

    fn parse(mountinfo: &str, own: &str) -> Result<Self, CgroupError> {
        let own = own_cgroups(own);
        let mut mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        mounts.sort_by_key(|m| !m.mount_point.starts_with(USUAL));
        let mut list: Vec<Hierarchy> = Vec::new();
        for mount in mounts {
            if list.iter().all(|known| known.controllers != mount.controllers) {
                // The key of a hierarchy in /proc/self/cgroup is any of its controllers; that of v2 is empty.
                let key = mount.controllers.first().map_or("", String::as_str);
                let inside = own.get(key).and_then(|path| path.strip_prefix(&mount.root).ok()).unwrap_or(Path::new(""));
                let own = inside.to_path_buf();
                list.push(Hierarchy { controllers: mount.controllers, mount_point: mount.mount_point, own });
            }
        }
        list.sort_by_key(Hierarchy::is_v2);
        let unified = !list.iter().any(|h| h.controllers.iter().any(|c| c != SYSTEMD));
        if unified {
            list.retain(Hierarchy::is_v2);
        }
        if list.is_empty() { Err(CgroupError::None) } else { Ok(Self { unified, list }) }
    }

    /// How many processes are in the cgroup at this path, in the hierarchy that has most.
    pub fn processes(&self, inside: &Path) -> usize {
        let count = |hierarchy: &Hierarchy| removal::processes(&hierarchy.mount_point.join(inside)).len();
        self.list.iter().map(count).max().unwrap_or(0)
    }
}

/// /proc/PID/cgroup: `number:controllers:path`.
fn own_cgroups(text: &str) -> HashMap<&str, &Path> {
    let mut paths = HashMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            paths.extend(controllers.split(',').map(|controller| (controller, Path::new(path))));
        }
    }
    paths
}

struct Mount {
    controllers: Vec<String>,
    root: PathBuf,
    mount_point: PathBuf,
}

impl Mount {
    /// A line of /proc/PID/mountinfo (proc(5)), if it is a hierarchy that counts.
    fn parse(line: &str) -> Option<Self> {
        let entry = mountinfo::parse(line)?;
        let options = entry.file_system_options.split(',');
        let mut controllers: Vec<String> = options.filter(|o| V1.contains(o)).map(ToOwned::to_owned).collect();
        match entry.kind {
            "cgroup" if !controllers.is_empty() => {}
            "cgroup2" => controllers.clear(),
            _ => return None,
        }
        Some(Self { controllers, root: entry.root, mount_point: entry.mount_point })
    }
}

/// The text of one file of a cgroup.
pub fn read(directory: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(directory.join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies(mountinfo: &[&str], own: &str) -> Hierarchies {
        Hierarchies::parse(&mountinfo.join("\n"), own).unwrap()
    }

    const TMPFS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs cgroup rw,mode=755";
    const CPU: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:14 master:2 - cgroup cgroup rw,cpu,cpuacct";
    const MEMORY: &str = "33 31 0:30 /in /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
    const NAMED: &str = "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
    const V2_BELOW: &str = "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
    const V2: &str = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn v2_is_one_hierarchy() {
        let elsewhere = "20 1 0:32 / /mnt/cg rw - cgroup2 none rw";
        let found = hierarchies(&[elsewhere, V2], "0::/user.slice/me\n");
        assert!(found.unified);
        assert_eq!(found.list.len(), 1);
        assert_eq!(found.list[0].mount_point, Path::new("/sys/fs/cgroup"));
        assert_eq!(found.list[0].own, Path::new("/user.slice/me").strip_prefix("/").unwrap());
        let beside_systemds_own = hierarchies(&[V2, "9 1 0:9 / /s rw - cgroup c rw,name=systemd"], "0::/\n");
        assert!(beside_systemds_own.unified);
        assert_eq!(beside_systemds_own.list.len(), 1);
    }

    #[test]
    fn v1_has_many_and_hybrid_one_more() {
        let own = "3:memory:/in/me\n2:cpu,cpuacct:/\n1:name=systemd:/a\n0::/b\n";
        let other = "40 31 0:40 / /sys/fs/cgroup/x rw - cgroup cgroup rw,name=elogind";
        let v1 = hierarchies(&[TMPFS, MEMORY, CPU, NAMED, other], own);
        assert!(!v1.unified);
        let shown: Vec<String> =
            v1.list.iter().map(|h| format!("{}={}", h.controllers.join(","), h.own.display())).collect();
        assert_eq!(shown, ["memory=me", "cpu,cpuacct=", "name=systemd=a"]);
        let hybrid = hierarchies(&[TMPFS, V2_BELOW, CPU], own);
        assert!(!hybrid.unified);
        assert!(hybrid.list[1].is_v2());
        assert_eq!(hybrid.list[1].own, Path::new("b"));
    }

    #[test]
    fn none_is_an_error() {
        assert!(matches!(Hierarchies::parse(TMPFS, "0::/"), Err(CgroupError::None)));
    }
}
