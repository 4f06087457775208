//! Containers that share a namespace live in one micro-VM: `docker run --network container:X`, the containers of a Kubernetes pod. This finds
//! out whose namespaces a configuration names, and rewrites it for the guest.

mod turn;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_protocol::{CONTAINERS_DIR, SHARE_DIR};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::control::{KeeperConfig, KeeperTask};
use crate::jail;
use crate::monitor_process;
use crate::process_id::ProcessId;
use crate::share::Plan;
use crate::state::{self, Record, Status};

pub use turn::Turn;

/// Shares of containers that joined are below this one.
const SHARES: &str = "joined";

/// Why a namespace cannot be joined.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// Nobody's, or another runtime's.
    #[error(
        "linux.namespaces[{index}].path {}: no running container of this runtime has this {kind} namespace, and only theirs can be joined", .path.display()
    )]
    Nobodys {
        /// Which of the list.
        index: usize,
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: LinuxNamespaceType,
    },
    /// Of two micro-VMs.
    #[error(
        "linux.namespaces: the namespaces to be joined belong to the micro-VMs of containers {0:?} and {1:?}; a container can live in one only"
    )]
    Several(String, String),
}

/// The container that has the micro-VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its ID.
    pub id: String,
    /// Its monitor.
    pub monitor: ProcessId,
}

/// One namespace that is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Joined {
    kind: LinuxNamespaceType,
    /// The container whose it is.
    id: String,
}

/// What a container joins.
#[derive(Debug, PartialEq, Eq)]
pub struct Joining {
    /// Whose micro-VM.
    pub owner: Owner,
    namespaces: Vec<Joined>,
}

/// What a configuration joins, of the containers below `root`; nothing where it is to have a micro-VM of its own.
pub fn find(spec: &Spec, root: &Path) -> Result<Option<Joining>, JoinError> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let mut found: Option<Joining> = None;
    for (index, namespace) in namespaces.iter().enumerate() {
        let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
        let kind = namespace.typ();
        let Some(record) = whose(root, kind, path) else {
            // A network namespace that somebody else has made is one to live in; that of another runtime's container is not.
            let anothers = is_of_a_daemon(root) && path.starts_with("/proc");
            if kind == LinuxNamespaceType::Network && !anothers
                || kind == LinuxNamespaceType::User && is_given(spec, path)
            {
                continue;
            }
            return Err(JoinError::Nobodys { index, path: path.clone(), kind });
        };
        let Some(owner) = owner(root, &record) else {
            return Err(JoinError::Nobodys { index, path: path.clone(), kind });
        };
        let joining = found.get_or_insert_with(|| Joining { owner: owner.clone(), namespaces: Vec::new() });
        if joining.owner != owner {
            return Err(JoinError::Several(joining.owner.id.clone(), owner.id));
        }
        joining.namespaces.push(Joined { kind, id: record.id });
    }
    Ok(found)
}

/// Whether somebody has made this user namespace for the container beforehand, maybe for a whole pod: it has a name of its own, and the
/// configuration says what is in it. The guest makes one like it.
fn is_given(spec: &Spec, path: &Path) -> bool {
    let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let linux = spec.linux().as_ref();
    let hosts = || identity(Path::new("/proc/self/ns/user"));
    linux.is_some_and(|linux| mapped(linux.uid_mappings()) && mapped(linux.gid_mappings()))
        && !path.starts_with("/proc")
        && identity(path).is_some_and(|found| Some(found) != hosts())
}

/// What [`Record::user_namespace`] is to be.
pub fn given_user_namespace(spec: &Spec) -> Option<(u64, u64)> {
    let mut namespaces = spec.linux().as_ref()?.namespaces().iter().flatten();
    let path = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User)?.path().as_ref()?;
    identity(path).filter(|_| is_given(spec, path))
}

/// Where in the share the files are of a container that joined.
pub fn place_of(id: &str) -> String {
    format!("{SHARES}/{id}")
}

/// Whether ROOT is that of a daemon which gives its containers networks, and names other containers' processes where they are to share
/// one. The last part is containerd's name for its client ("namespace").
pub fn is_of_a_daemon(root: &Path) -> bool {
    root.file_name().is_some_and(|name| name == "moby" || name == "k8s.io")
}

/// Whether a network namespace is the host's, or that of whoever called this program.
pub fn is_hosts_network(path: &Path) -> bool {
    let wanted = identity(path);
    wanted.is_some() && ["/proc/self/ns/net", "/proc/1/ns/net"].iter().any(|own| identity(Path::new(own)) == wanted)
}

/// The container that has a namespace: by the namespace for a network, which is the host side's too, and for a user namespace that was given
/// to it by a name; else by the container's process.
fn whose(root: &Path, kind: LinuxNamespaceType, path: &Path) -> Option<Record> {
    let mut living = state::records(root)
        .filter(|record| matches!(record.status(), Status::Created | Status::Running | Status::Paused));
    if kind == LinuxNamespaceType::Network {
        let wanted = identity(path)?;
        let has = |record: &Record| identity(&network_of(record)) == Some(wanted);
        // The first one, if several are in it, is as good as any.
        return living.find(has);
    }
    if kind == LinuxNamespaceType::User && !path.starts_with("/proc") {
        let wanted = identity(path)?;
        return living.find(|record| record.user_namespace == Some(wanted));
    }
    let pid = path.strip_prefix("/proc").ok()?.components().next()?.as_os_str().to_str()?.parse::<i32>().ok()?;
    living.find(|record| record.proxy.pid == pid)
}

fn network_of(record: &Record) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", record.proxy.pid))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn owner(root: &Path, record: &Record) -> Option<Owner> {
    let owner = match &record.joined {
        None => record.clone(),
        Some(id) => state::records(root).find(|other| other.id == *id)?,
    };
    Some(Owner { monitor: owner.monitor.filter(ProcessId::is_alive)?, id: owner.id })
}

/// Ends what a container that joined has left in its micro-VM, whose processes on the host have ended: where its keeper was killed, it
/// runs, and its files are in the other's jail.
pub fn clear(root: &Path, record: &Record) {
    let Some(owner) = record.joined.as_ref().and_then(|_| owner(root, record)) else { return };
    let share = Path::new(jail::ROOT).join(place_of(&record.id));
    let left = Path::new("/proc").join(owner.monitor.pid.to_string()).join("root");
    if left.join(share.strip_prefix("/").unwrap_or(&share)).symlink_metadata().is_ok() {
        let (id, socket) = (record.id.clone(), state::link_in(root, &record.id));
        monitor_process::clear(&KeeperConfig { id, monitor: owner.monitor, socket, task: KeeperTask::Clear });
    }
}

impl Joining {
    /// Whether the network is another container's.
    pub fn shares_network(&self) -> bool {
        self.namespaces.iter().any(|joined| joined.kind == LinuxNamespaceType::Network)
    }

    /// Puts the guest's names in the place of the host's: those of the namespaces, and of the shares, which are beside the owner's.
    pub fn rewrite(&self, plan: &mut Plan, id: &str) {
        let place = place_of(id);
        for share in &mut plan.shares {
            share.name = format!("{place}/{}", share.name);
        }
        let moved = |path: &Path| {
            let below = path.strip_prefix(SHARE_DIR).ok()?;
            Some(Path::new(SHARE_DIR).join(&place).join(below))
        };
        if let Some(root) = plan.spec.root_mut()
            && let Some(path) = moved(root.path())
        {
            root.set_path(path);
        }
        for mount in plan.spec.mounts_mut().iter_mut().flatten() {
            if let Some(source) = mount.source().as_ref().and_then(|source| moved(source)) {
                mount.set_source(Some(source));
            }
        }
        let Some(mut linux) = plan.spec.linux().clone() else { return };
        for namespace in linux.namespaces_mut().iter_mut().flatten() {
            if let Some(joined) = self.namespaces.iter().find(|joined| joined.kind == namespace.typ()) {
                namespace.set_path(Some(Path::new(CONTAINERS_DIR).join(&joined.id)));
            }
        }
        plan.spec.set_linux(Some(linux));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(namespaces: serde_json::Value) -> Spec {
        let spec = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": {"namespaces": namespaces}});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn namespaces_of_nobody() {
        let root = tempfile::tempdir().unwrap();
        let some = spec(json!([{"type": "pid"}, {"type": "network", "path": "/proc/self/ns/net"}]));
        assert_eq!(find(&some, root.path()), Ok(None));
        assert!(find(&some, &root.path().join("moby")).is_err());
        assert!(is_hosts_network(Path::new("/proc/self/ns/net")) && !is_hosts_network(Path::new("/proc/self/ns/pid")));
        let others = spec(json!([{"type": "network"}, {"type": "pid", "path": "/proc/1/ns/pid"}]));
        let text = find(&others, root.path()).unwrap_err().to_string();
        assert!(text.starts_with("linux.namespaces[1].path /proc/1/ns/pid: no running container"), "{text}");
    }

    #[test]
    fn a_user_namespace_can_be_given() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("pinned");
        fs::write(&file, "").unwrap();
        let of = |path: &str, mapped: bool| {
            let mut spec = spec(json!([{"type": "user", "path": path}]));
            let mappings: Vec<_> = serde_json::from_value(json!([{"containerID": 0, "hostID": 5, "size": 9}])).unwrap();
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_uid_mappings(mapped.then(|| mappings.clone())).set_gid_mappings(mapped.then_some(mappings));
            spec
        };
        let pinned = of(&file.to_string_lossy(), true);
        assert_eq!(find(&pinned, root.path()), Ok(None));
        assert_eq!(given_user_namespace(&pinned), identity(&file));
        for other in [
            of(&file.to_string_lossy(), false),
            of("/proc/self/ns/user", true),
            of("/proc/1/ns/user", true),
            of("/nowhere", true),
        ] {
            assert!(matches!(find(&other, root.path()), Err(JoinError::Nobodys { index: 0, .. })), "{other:?}");
            assert_eq!(given_user_namespace(&other), None);
        }
        assert_eq!(given_user_namespace(&spec(json!([{"type": "user"}, {"type": "pid"}]))), None);
    }

    #[test]
    fn daemons_are_known() {
        assert!(is_of_a_daemon(Path::new("/var/run/docker/runtime-runc/moby")));
        assert!(is_of_a_daemon(Path::new("/run/containerd/runc/k8s.io")));
        assert!(!is_of_a_daemon(Path::new("/run/sandbox")));
        assert!(!is_of_a_daemon(Path::new("/run/containerd/runc/default")));
    }

    #[test]
    fn a_joining_containers_paths() {
        let bundle = tempfile::tempdir().unwrap();
        fs::create_dir(bundle.path().join("rootfs")).unwrap();
        let namespaces = json!([{"type": "mount"}, {"type": "pid", "path": "/proc/9/ns/pid"}, {"type": "network"}]);
        let mut spec = spec(namespaces);
        let file = bundle.path().join("file");
        fs::write(&file, "").unwrap();
        let mounts = json!([{"destination": "/f", "type": "bind", "source": file, "options": ["rbind"]},
            {"destination": "/proc", "type": "proc", "source": "proc"}]);
        spec.set_mounts(serde_json::from_value(mounts).unwrap());
        let mut plan = crate::share::plan(&spec, bundle.path(), "b").unwrap();
        let joined = Joined { kind: LinuxNamespaceType::Pid, id: "x".to_string() };
        let owner = Owner { id: "x".to_string(), monitor: ProcessId::of(std::process::id() as i32).unwrap() };
        Joining { owner, namespaces: vec![joined] }.rewrite(&mut plan, "b");
        let names: Vec<&str> = plan.shares.iter().map(|share| share.name.as_str()).collect();
        assert_eq!(names, ["joined/b/rootfs", "joined/b/mounts/0"]);
        let shown = serde_json::to_value(&plan.spec).unwrap();
        assert_eq!(shown["root"]["path"], "/run/sandbox/share/joined/b/rootfs");
        assert_eq!(shown["mounts"][0]["source"], "/run/sandbox/share/joined/b/mounts/0");
        assert_eq!(shown["mounts"][1]["source"], "proc");
        assert_eq!(shown["linux"]["namespaces"][1]["path"], "/run/sandbox/containers/x");
        assert!(shown["linux"]["namespaces"][2]["path"].is_null());
    }
}
