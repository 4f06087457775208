//! From linux.cgroupsPath to a directory in each hierarchy.

use std::path::{Component, Path, PathBuf};

use agent_protocol::cgroup::systemd_path;

use super::CgroupError;
use super::hierarchy::Hierarchy;

/// Where in the hierarchies a container's cgroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Below each hierarchy's mount point.
    Absolute(PathBuf),
    /// Below the cgroup of the caller.
    Relative(PathBuf),
}

/// What the specification calls for; systemd's names (`slice:prefix:name`) count with its driver only.
pub fn wanted(cgroups_path: Option<&Path>, id: &str, systemd: bool) -> Result<Wanted, CgroupError> {
    let given = cgroups_path.unwrap_or(Path::new(""));
    let text = given.to_str().ok_or(CgroupError::Path("is not UTF-8"))?;
    if systemd {
        let parts = match text {
            "" => vec!["", "sandbox", id],
            text => text.split(':').collect(),
        };
        let [slice, prefix, name] = parts[..] else {
            return Err(CgroupError::Path("must be `slice:prefix:name` with --systemd-cgroup"));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        return systemd_path(slice, prefix, name).map(Wanted::Absolute).map_err(CgroupError::Path);
    }
    // `..` leads no higher than where the path begins.
    let mut path = PathBuf::new();
    for part in given.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    match (given.is_absolute(), path.as_os_str().is_empty()) {
        (true, true) => Err(CgroupError::Path("is the root of the hierarchy, which holds the whole system")),
        (true, false) => Ok(Wanted::Absolute(path)),
        (false, true) => Ok(Wanted::Relative(PathBuf::from(id))),
        (false, false) => Ok(Wanted::Relative(path)),
    }
}

/// Its directory in one hierarchy, below the mount point.
pub fn inside(hierarchy: &Hierarchy, unified: bool, wanted: &Wanted) -> PathBuf {
    match wanted {
        Wanted::Absolute(path) => path.clone(),
        // In v2 a cgroup with processes, such as the caller's, cannot have children with limits: beside it, then.
        Wanted::Relative(path) if unified => hierarchy.own.parent().unwrap_or(Path::new("")).join(path),
        // The v2 of hybrid systems has no limits, and no place of the caller's counts there, as with runc.
        Wanted::Relative(path) if hierarchy.is_v2() => path.clone(),
        Wanted::Relative(path) => hierarchy.own.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, systemd: bool) -> Result<Wanted, String> {
        wanted(Some(Path::new(path)), "id", systemd).map_err(|e| e.to_string())
    }

    fn absolute(path: &str) -> Result<Wanted, String> {
        Ok(Wanted::Absolute(path.into()))
    }

    fn relative(path: &str) -> Result<Wanted, String> {
        Ok(Wanted::Relative(path.into()))
    }

    #[test]
    fn paths() {
        assert_eq!(of("/docker/abc", false), absolute("docker/abc"));
        assert_eq!(of("/a/../../b", false), absolute("b"));
        assert_eq!(of("a/./b//c", false), relative("a/b/c"));
        assert_eq!(of("a/../../b", false), relative("b"));
        assert_eq!(of("", false), relative("id"));
        assert_eq!(of("..", false), relative("id"));
        assert_eq!(wanted(None, "id", false).unwrap(), Wanted::Relative("id".into()));
        assert_eq!(of("a-b.slice:pre:x", false), relative("a-b.slice:pre:x"));
        assert!(of("/", false).unwrap_err().contains("linux.cgroupsPath"));
    }

    #[test]
    fn systemds_names() {
        assert_eq!(of("a-b.slice:pre:x", true), absolute("a.slice/a-b.slice/pre-x.scope"));
        assert_eq!(of(":docker:x", true), absolute("system.slice/docker-x.scope"));
        assert_eq!(of("", true), absolute("system.slice/sandbox-id.scope"));
        assert!(of("/docker/abc", true).unwrap_err().contains("slice:prefix:name"));
        assert!(of("a.slice:b", true).is_err());
    }

    #[test]
    fn relative_is_below_the_caller_or_beside_it() {
        let hierarchy =
            Hierarchy { controllers: vec!["cpu".into()], mount_point: "/sys/fs/cgroup".into(), own: "user/me".into() };
        let wanted = Wanted::Relative("x".into());
        assert_eq!(inside(&hierarchy, false, &wanted), Path::new("user/me/x"));
        let hierarchy = Hierarchy { controllers: vec![], ..hierarchy };
        assert_eq!(inside(&hierarchy, false, &wanted), Path::new("x"));
        assert_eq!(inside(&hierarchy, true, &wanted), Path::new("user/x"));
        let at_root = Hierarchy { own: "".into(), ..hierarchy };
        assert_eq!(inside(&at_root, true, &wanted), Path::new("x"));
    }
}
