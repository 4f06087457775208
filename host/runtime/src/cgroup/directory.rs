//! Making the directory of a cgroup so that its files can be used: parents and what children take from them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CgroupError;
use super::hierarchy::{Hierarchy, read};

/// Makes the cgroup; says whether it is new. Controllers are v2's to give only where v1 has none (`unified`).
pub fn make(hierarchy: &Hierarchy, inside: &Path, unified: bool) -> Result<bool, CgroupError> {
    let mut path = hierarchy.mount_point.clone();
    let mut made = false;
    for part in inside.iter() {
        if unified {
            enable_controllers(&path);
        }
        let parent = path.clone();
        path.push(part);
        let failed = |path: PathBuf| move |source| CgroupError::Create { path, source };
        made = create(&path).map_err(failed(path.clone()))?;
        if unified {
            join_threaded_domain(&path).map_err(failed(path.clone()))?;
        }
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            inherit_cpuset(&parent, &path).map_err(failed(path.clone()))?;
        }
    }
    Ok(made)
}

fn create(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// In v1 a new cgroup has no CPU and no memory node, and takes no process until it has.
fn inherit_cpuset(parent: &Path, path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(path, file)?.trim().is_empty() {
            fs::write(path.join(file), read(parent, file)?.trim())?;
        }
    }
    Ok(())
}

/// Gives the children of a v2 cgroup each controller that it has. One that they cannot have, as a cgroup with processes
/// keeps most to itself, is missed only by a limit that needs it: see [`explain`].
fn enable_controllers(path: &Path) {
    let enabled = read(path, "cgroup.subtree_control").unwrap_or_default();
    let enabled: HashSet<&str> = enabled.split_ascii_whitespace().collect();
    for controller in read(path, "cgroup.controllers").unwrap_or_default().split_ascii_whitespace() {
        if !enabled.contains(controller) {
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// Whether a v2 cgroup has a controller.
pub fn has_controller(path: &Path, controller: &str) -> bool {
    read(path, "cgroup.controllers").unwrap_or_default().split_ascii_whitespace().any(|c| c == controller)
}

/// Below a cgroup with processes that passes controllers on, a new one takes no process until it is of the same domain of threads.
fn join_threaded_domain(path: &Path) -> io::Result<()> {
    match read(path, "cgroup.type").as_deref().map(str::trim) {
        Ok("domain invalid") => fs::write(path.join("cgroup.type"), "threaded"),
        _ => Ok(()),
    }
}

/// Why a v2 cgroup does not have a controller, as a clause.
pub fn explain(path: &Path, controller: &str) -> String {
    let Some(parent) = path.ancestors().skip(1).find(|parent| has_controller(parent, controller)) else {
        return format!("the system has no controller `{controller}`");
    };
    let processes = read(parent, "cgroup.procs").is_ok_and(|text| !text.is_empty());
    let why = if processes { "has processes of its own" } else { "does not pass it on" };
    format!("the cgroup {} {why}, so that the cgroups below it have no controller `{controller}`", parent.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(root: &Path, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
        Hierarchy { controllers, mount_point: root.to_owned(), own: PathBuf::new() }
    }

    #[test]
    fn directories_are_made_once() {
        let root = tempfile::tempdir().unwrap();
        let memory = hierarchy(root.path(), &["memory"]);
        assert!(make(&memory, Path::new("a/b"), false).unwrap());
        assert!(!make(&memory, Path::new("a/b"), false).unwrap());
        assert!(make(&memory, Path::new("a/c"), false).unwrap());
        let error = make(&hierarchy(&root.path().join("none"), &["memory"]), Path::new("x"), false).unwrap_err();
        assert!(error.to_string().contains("none/x"), "{error}");
    }

    #[test]
    fn cpus_come_from_the_parent() {
        let root = tempfile::tempdir().unwrap();
        let file =
            |directory: &str, name: &str, text: &str| fs::write(root.path().join(directory).join(name), text).unwrap();
        for directory in ["a", "a/b"] {
            fs::create_dir(root.path().join(directory)).unwrap();
            file(directory, "cpuset.cpus", "\n");
            file(directory, "cpuset.mems", "7\n");
        }
        file("", "cpuset.cpus", "0-3\n");
        file("", "cpuset.mems", "0\n");
        make(&hierarchy(root.path(), &["cpuset"]), Path::new("a/b"), false).unwrap();
        assert_eq!(read(root.path(), "a/b/cpuset.cpus").unwrap(), "0-3");
        assert_eq!(read(root.path(), "a/b/cpuset.mems").unwrap(), "7\n");
    }

    #[test]
    fn a_cgroup_in_a_domain_of_threads_becomes_threaded() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a");
        fs::create_dir(&leaf).unwrap();
        for (before, after) in [("domain invalid\n", "threaded"), ("domain\n", "domain\n")] {
            fs::write(leaf.join("cgroup.type"), before).unwrap();
            make(&hierarchy(root.path(), &[]), Path::new("a"), true).unwrap();
            assert_eq!(read(&leaf, "cgroup.type").unwrap(), after);
        }
    }

    #[test]
    fn a_missing_controller_is_explained() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "memory\n").unwrap();
        let leaf = root.path().join("a");
        assert!(explain(&leaf, "io").contains("no controller `io`"));
        assert!(explain(&leaf, "memory").contains("does not pass it on"));
        fs::write(root.path().join("cgroup.procs"), "1\n").unwrap();
        assert!(explain(&leaf, "memory").contains("has processes of its own"));
    }
}
