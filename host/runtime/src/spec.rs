//! `sandbox spec`: a config.json to begin with.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::process::{getegid, geteuid};

use crate::error::Plain;

/// The version of the OCI runtime specification that this runtime is built to.
pub const OCI_VERSION: &str = "1.2.1";

/// A shell in a read-only root, with the namespaces, mounts and limits that one expects of a container.
const CONFIG: &str = include_str!("spec/config.json");

/// Why no config.json was written.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is one.
    #[error("File {} exists. Remove it first", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("{}: {}", .path.display(), Plain(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes `directory`/config.json, unless there is one.
pub fn write(directory: &Path, rootless: bool) -> Result<(), SpecError> {
    let path = directory.join("config.json");
    let mut text = if rootless { rootless_text(geteuid().as_raw(), getegid().as_raw()) } else { CONFIG.to_string() };
    // As runc: where the host has hierarchies of v1, containers see the path of their cgroup.
    if !rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == libc::CGROUP2_SUPER_MAGIC) {
        text = text.replacen(CGROUP_NAMESPACE, "", 1);
    }
    let written = OpenOptions::new().write(true).create_new(true).open(&path);
    match written.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(SpecError::Exists(path)),
        Err(source) => Err(SpecError::Write { path, source }),
    }
}

/// What differs in a user namespace that knows one user: no groups but its own, no network of its own, no limits.
fn rootless_text(uid: u32, gid: u32) -> String {
    let mapping = |id| {
        format!(
            "[\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t]"
        )
    };
    let mappings = format!("\t\t\"uidMappings\": {},\n\t\t\"gidMappings\": {},\n", mapping(uid), mapping(gid));
    let mut text = CONFIG.to_string();
    for (from, to) in [
        (RESOURCES, mappings.as_str()),
        (",\n\t\t\t\t\"gid=5\"", ""),
        ("\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\"", "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\""),
        ("/sys\",\n\t\t\t\"options\": [\n", "/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",\n"),
        ("\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t},\n", ""),
        (
            "\t\t\t\t\"type\": \"cgroup\"\n",
            "\t\t\t\t\"type\": \"cgroup\"\n\t\t\t},\n\t\t\t{\n\t\t\t\t\"type\": \"user\"\n",
        ),
    ] {
        text = text.replacen(from, to, 1);
    }
    text
}

const CGROUP_NAMESPACE: &str = ",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}";

const RESOURCES: &str = concat!(
    "\t\t\"resources\": {\n\t\t\t\"devices\": [\n\t\t\t\t{\n\t\t\t\t\t\"allow\": false,\n",
    "\t\t\t\t\t\"access\": \"rwm\"\n\t\t\t\t}\n\t\t\t]\n\t\t},\n"
);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bundle::Bundle;

    fn read(directory: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap()
    }

    #[test]
    fn what_it_writes_can_be_run() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), false).unwrap();
        let config = read(directory.path());
        assert_eq!(config["ociVersion"], OCI_VERSION);
        assert_eq!(config["process"]["args"], json!(["sh"]));
        assert_eq!(config["mounts"].as_array().unwrap().len(), 7);
        Bundle::load(directory.path()).unwrap();
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), "mine").unwrap();
        let text = write(directory.path(), false).unwrap_err().to_string();
        assert_eq!(text, format!("File {}/config.json exists. Remove it first", directory.path().display()));
        assert_eq!(std::fs::read(directory.path().join("config.json")).unwrap(), b"mine");
        let text = write(Path::new("/nonexistent"), true).unwrap_err().to_string();
        assert_eq!(text, "/nonexistent/config.json: no such file or directory");
    }

    #[test]
    fn rootless_has_a_user_namespace() {
        let config: Value = serde_json::from_str(&rootless_text(1000, 1001)).unwrap();
        let linux = &config["linux"];
        assert_eq!(linux["uidMappings"], json!([{"containerID": 0, "hostID": 1000, "size": 1}]));
        assert_eq!(linux["gidMappings"], json!([{"containerID": 0, "hostID": 1001, "size": 1}]));
        assert!(linux.get("resources").is_none());
        let kinds: Vec<_> = linux["namespaces"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
        let mount = |path: &str| {
            config["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == path).cloned().unwrap()
        };
        let sys = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        assert_eq!(mount("/sys"), sys);
        assert!(!mount("/dev/pts").to_string().contains("gid="));
        assert!(mount("/sys/fs/cgroup").to_string().contains("relatime"));
    }
}
