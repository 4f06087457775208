//! From linux.cgroupsPath to a directory below the hierarchy's root.

use std::path::{Component, Path, PathBuf};

use agent_protocol::cgroup::systemd_path;

use super::Error;

/// `given` as a path (`/a/b`), or as systemd's `slice:prefix:name`, or the container's id where it is absent.
pub fn of(given: Option<&Path>, container_id: &str) -> Result<PathBuf, Error> {
    let given = given.unwrap_or(Path::new(""));
    let text = given.to_str().ok_or(Error::Path("is not UTF-8"))?;
    if let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..]
        && !text.contains('/')
    {
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        return systemd_path(slice, prefix, name).map_err(Error::Path);
    }
    let mut path = PathBuf::new();
    for part in given.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err(Error::Path("contains `..`")),
            Component::Prefix(_) => return Err(Error::Path("is not a path")),
        }
    }
    Ok(if path.as_os_str().is_empty() { PathBuf::from(container_id) } else { path })
}

/// A cgroup below the container's own; the name comes from whoever asks for an exec.
pub fn below(own: &Path, name: &str) -> Result<PathBuf, Error> {
    let mut path = own.to_owned();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(Error::Outside(name.to_owned())),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(given: &str) -> Result<String, String> {
        of(Some(Path::new(given)), "id").map(|p| p.display().to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn plain_paths_stay_below_the_root() {
        assert_eq!(path("/docker/abc").unwrap(), "docker/abc");
        assert_eq!(path("a/./b//c").unwrap(), "a/b/c");
        assert_eq!(path("").unwrap(), "id");
        assert_eq!(path("/").unwrap(), "id");
        assert_eq!(of(None, "id").unwrap(), Path::new("id"));
        assert!(path("/a/../../b").is_err());
    }

    #[test]
    fn nothing_above_is_below() {
        let own = Path::new("/sys/fs/cgroup/c");
        assert_eq!(below(own, "/").unwrap(), own);
        assert_eq!(below(own, "a/b").unwrap(), own.join("a/b"));
        for outside in ["..", "a/../.."] {
            assert!(below(own, outside).unwrap_err().to_string().contains(" is not a sub cgroup path"));
        }
    }

    #[test]
    fn systemd_names_become_scopes_in_slices() {
        assert_eq!(path("system.slice:docker:abc").unwrap(), "system.slice/docker-abc.scope");
        assert_eq!(path(":runc:abc").unwrap(), "system.slice/runc-abc.scope");
        assert!(path("nonsense:p:x").is_err());
    }
}
