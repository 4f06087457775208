//! Which directories and files of the host the guest gets to see, and the configuration as the guest gets to see it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use agent_protocol::{MAX_SOCKETS, SHARE_DIR, SOCKETS_DIR};
use oci_spec::runtime::{Linux, LinuxIdMapping, Mount, Spec};

use crate::control::{IdMap, ReadOnly, Share};
use crate::error::Plain;
use crate::sockets::{HostSocket, HostSockets, Identities, SourceError};

mod below;
mod overlay;

/// Why something cannot be shared with the guest.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// A path of the host cannot be reached.
    #[error("{field} {}: {}", .path.display(), Plain(.source))]
    Unreachable {
        /// The field of config.json.
        field: String,
        /// Its path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root is no directory.
    #[error("root.path {}: not a directory", .0.display())]
    RootNotDirectory(PathBuf),
    /// A bind mount without source.
    #[error("mounts[{0}].source is missing in config.json: a bind mount needs one")]
    NoSource(usize),
    /// A bind mount of something that virtio-fs cannot carry.
    #[error("mounts[{index}].source {} is a {kind}: only directories, regular files and stream sockets can be shared with a guest", .path.display())]
    Kind {
        /// Which mount.
        index: usize,
        /// Its path on the host.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A bind mount of a socket that cannot be carried.
    #[error("mounts[{index}].source {} {source}", .path.display())]
    Socket {
        /// Which mount.
        index: usize,
        /// Its path on the host.
        path: PathBuf,
        /// Why.
        source: SourceError,
    },
    /// A layer of an overlay that is none.
    #[error("mounts[{index}].options: {option} {}: not a directory", .path.display())]
    Layer {
        /// Which mount.
        index: usize,
        /// lowerdir, upperdir or workdir.
        option: String,
        /// Its path on the host.
        path: PathBuf,
    },
    /// There is no root in the configuration.
    #[error("root is missing in config.json")]
    NoRoot,
}

/// What the monitor shares and what the agent is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration with guest paths in place of host paths.
    pub spec: Spec,
    /// Directories and files, the root first.
    pub shares: Vec<Share>,
    /// Sockets, which are not shared: what is sent to them is carried.
    pub sockets: HostSockets,
}

/// Plans the shares of one container. Relative paths are relative to the bundle. All sources are resolved, so that nobody has
/// to follow symbolic links later.
pub fn plan(spec: &Spec, bundle: &Path, id: &str) -> Result<Plan, ShareError> {
    let mut spec = spec.clone();
    let mut shares = vec![share_root(&mut spec, bundle)?];
    let mut sockets = HostSockets { list: Vec::new(), identities: Identities::of(&spec) };
    let given = spec.linux().clone().unwrap_or_else(nothing_asked);
    let ids = [given.uid_mappings(), given.gid_mappings()].map(|list| list.as_deref().unwrap_or_default());
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        if overlay::is_one(mount) {
            shares.push(overlay::share(index, mount, bundle, shares.len() - 1)?);
        } else if is_bind(mount) && !is_the_guests(mount) {
            let source = source(index, mount, bundle)?;
            if source.1.file_type().is_socket() {
                // Ids are mapped by the guest, where the socket is that the container sees.
                let name = format!("{id}/{}", sockets.list.len());
                sockets.list.push(socket(index, &source, sockets.list.len())?);
                mount.set_source(Some(Path::new(SOCKETS_DIR).join(name)));
            } else {
                let id_map = id_map(mount, ids);
                shares.push(Share { id_map, ..share_mount(index, mount, source, shares.len() - 1)? });
            }
        }
    }
    let mut linux = given;
    if linux.cgroups_path().as_ref().is_none_or(|path| path.as_os_str().is_empty()) {
        linux.set_cgroups_path(Some(PathBuf::from(format!("/{id}"))));
    }
    spec.set_linux(Some(linux));
    Ok(Plan { spec, shares, sockets })
}

/// `Linux::default()` holds namespaces and resources that nobody asked for; this holds nothing.
fn nothing_asked() -> Linux {
    let mut linux = Linux::default();
    linux.set_namespaces(None).set_resources(None).set_devices(None).set_masked_paths(None).set_readonly_paths(None);
    linux
}

fn share_root(spec: &mut Spec, bundle: &Path) -> Result<Share, ShareError> {
    let root = spec.root_mut().as_mut().ok_or(ShareError::NoRoot)?;
    let (source, metadata) = resolve("root.path", &bundle.join(root.path()))?;
    if !metadata.is_dir() {
        return Err(ShareError::RootNotDirectory(source));
    }
    root.set_path(Path::new(SHARE_DIR).join("rootfs"));
    // Writable even if root.readonly is set: the agent makes missing mount points first, then it makes the root read-only.
    let name = "rootfs".to_string();
    let readonly = ReadOnly::Nowhere;
    Ok(Share { source, name, directory: true, recursive: true, readonly, id_map: None, overlay: None })
}

/// What a bind mount is of.
type Source = (PathBuf, fs::Metadata);

fn source(index: usize, mount: &Mount, bundle: &Path) -> Result<Source, ShareError> {
    let source = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty());
    let path = bundle.join(source.ok_or(ShareError::NoSource(index))?);
    resolve(&format!("mounts[{index}].source"), &path)
}

fn socket(index: usize, (path, metadata): &Source, number: usize) -> Result<HostSocket, ShareError> {
    let socket = match number < MAX_SOCKETS {
        true => HostSocket::new(path, metadata),
        false => Err(SourceError::TooMany),
    };
    socket.map_err(|source| ShareError::Socket { index, path: path.clone(), source })
}

fn share_mount(
    index: usize,
    mount: &mut Mount,
    (source, metadata): Source,
    number: usize,
) -> Result<Share, ShareError> {
    let kind = metadata.file_type();
    if !kind.is_dir() && !kind.is_file() {
        let kind = match () {
            () if kind.is_fifo() => "FIFO",
            () if kind.is_block_device() => "block device",
            () if kind.is_char_device() => "character device",
            () => "special file",
        };
        return Err(ShareError::Kind { index, path: source, kind });
    }
    let name = format!("mounts/{number}");
    mount.set_source(Some(Path::new(SHARE_DIR).join(&name)));
    let (directory, recursive, readonly) = (kind.is_dir(), below::is_recursive(mount), below::read_only(mount));
    if directory && recursive && readonly == ReadOnly::Top {
        below::tell(mount, &source);
    }
    Ok(Share { source, name, directory, recursive, readonly, id_map: None, overlay: None })
}

fn resolve(field: &str, path: &Path) -> Result<Source, ShareError> {
    fs::canonicalize(path)
        .and_then(|resolved| fs::metadata(&resolved).map(|metadata| (resolved, metadata)))
        .map_err(|source| ShareError::Unreachable { field: field.to_string(), path: path.to_path_buf(), source })
}

fn options(mount: &Mount) -> impl DoubleEndedIterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || options(mount).any(|option| matches!(option, "bind" | "rbind"))
}

/// The ids of an id-mapped mount, its own or with `idmap` those of the container's user namespace. The host shows them so: the guest
/// has nothing to map, and is not asked to. What is incomplete is left to the guest, which says what is missing.
fn id_map(mount: &mut Mount, container: [&[LinuxIdMapping]; 2]) -> Option<IdMap> {
    let asked = options(mount).rfind(|option| matches!(*option, "idmap" | "ridmap")).map(str::to_owned);
    let own = [mount.uid_mappings(), mount.gid_mappings()].map(|list| list.as_deref().unwrap_or_default());
    let [uid, gid] = match own {
        [[], []] => asked.as_ref().map(|_| container)?,
        own => own,
    };
    if uid.is_empty() || gid.is_empty() {
        return None;
    }
    let map = IdMap { uid: map_text(uid), gid: map_text(gid), recursive: asked.as_deref() == Some("ridmap") };
    mount.set_uid_mappings(None).set_gid_mappings(None);
    if let Some(options) = mount.options_mut() {
        options.retain(|option| !matches!(option.as_str(), "idmap" | "ridmap"));
    }
    Some(map)
}

fn map_text(list: &[LinuxIdMapping]) -> String {
    list.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
}

/// What stands for the kernel that the container meets, which is the guest's: /proc on /proc and /sys on /sys, as configurations
/// without a pid or user namespace of their own have it, and devices that are the same everywhere. The source stays as it is.
fn is_the_guests(mount: &Mount) -> bool {
    let Some(source) = mount.source() else { return false };
    let kernels = [Path::new("/proc"), Path::new("/sys")];
    (kernels.contains(&source.as_path()) && source == mount.destination()) || is_common_device(source)
}

/// Whether it is one of the devices that every container has, under its usual name.
fn is_common_device(path: &Path) -> bool {
    let numbers = match path.to_str() {
        Some("/dev/null") => (1, 3),
        Some("/dev/zero") => (1, 5),
        Some("/dev/full") => (1, 7),
        Some("/dev/random") => (1, 8),
        Some("/dev/urandom") => (1, 9),
        Some("/dev/tty") => (5, 0),
        _ => return false,
    };
    let device = rustix::fs::makedev(numbers.0, numbers.1);
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == device)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    fn bundle() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("rootfs")).unwrap();
        directory
    }

    fn planned(bundle: &TempDir, mounts: Value) -> Result<Plan, ShareError> {
        let spec = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs", "readonly": true}, "mounts": mounts});
        plan(&serde_json::from_value(spec).unwrap(), &bundle.path().canonicalize().unwrap(), "c1")
    }

    #[test]
    fn root_and_binds_get_guest_paths() {
        let bundle = bundle();
        let real = bundle.path().canonicalize().unwrap();
        fs::create_dir(real.join("data")).unwrap();
        fs::write(real.join("resolv.conf"), "").unwrap();
        symlink("resolv.conf", real.join("link")).unwrap();
        let plan = planned(
            &bundle,
            json!([
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "none", "source": "data", "options": ["rbind", "rw", "nosuid"]},
                {"destination": "/etc/resolv.conf", "type": "bind", "source": real.join("link"), "options": ["rw", "ro"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
            ]),
        )
        .unwrap();
        let share = |source: &str, name: &str, directory, recursive, readonly| Share {
            source: real.join(source),
            name: name.to_string(),
            directory,
            recursive,
            readonly,
            id_map: None,
            overlay: None,
        };
        assert_eq!(
            plan.shares,
            [
                share("rootfs", "rootfs", true, true, ReadOnly::Nowhere),
                share("data", "mounts/0", true, true, ReadOnly::Nowhere),
                share("resolv.conf", "mounts/1", false, false, ReadOnly::Top),
            ]
        );
        let sources: Vec<_> = plan.spec.mounts().iter().flatten().map(|m| m.source().clone().unwrap()).collect();
        let guest = |name: &str| Path::new(SHARE_DIR).join(name);
        assert_eq!(sources, [PathBuf::from("proc"), guest("mounts/0"), guest("mounts/1"), PathBuf::from("tmpfs")]);
        assert_eq!(plan.spec.root().as_ref().unwrap().path(), &guest("rootfs"));
        assert_eq!(plan.spec.root().as_ref().unwrap().readonly(), Some(true));
        let options = plan.spec.mounts().as_ref().unwrap()[1].options().clone().unwrap();
        assert_eq!(options, ["rbind", "rw", "nosuid"]);
    }

    #[test]
    fn cgroup_path_defaults_to_the_id_and_nothing_else_is_added() {
        let plan = planned(&bundle(), json!([])).unwrap();
        assert_eq!(serde_json::to_value(plan.spec.linux()).unwrap(), json!({"cgroupsPath": "/c1"}));
    }

    #[test]
    fn ids_are_mapped_by_the_host() {
        let bundle = bundle();
        fs::create_dir(bundle.path().join("data")).unwrap();
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 10}]);
        let mount =
            |options: &[&str]| json!({"destination": "/d", "type": "bind", "source": "data", "options": options});
        let mut own = mount(&["rbind", "ridmap"]);
        own["uidMappings"] = map(1000);
        own["gidMappings"] = map(2000);
        let mut half = mount(&["bind"]);
        half["uidMappings"] = map(1000);
        let config = json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "mounts": [own, mount(&["bind", "idmap"]), mount(&["bind"]), half],
            "linux": {"uidMappings": map(7), "gidMappings": map(8)}});
        let plan =
            plan(&serde_json::from_value(config).unwrap(), &bundle.path().canonicalize().unwrap(), "c1").unwrap();
        let text = |uid: u32, gid: u32, recursive| {
            Some(IdMap { uid: format!("0 {uid} 10\n"), gid: format!("0 {gid} 10\n"), recursive })
        };
        let maps: Vec<_> = plan.shares.iter().map(|share| share.id_map.clone()).collect();
        assert_eq!(maps, [None, text(1000, 2000, true), text(7, 8, false), None, None]);
        let mounts = plan.spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[0].options().as_deref().unwrap(), ["rbind"]);
        assert!(mounts[0].uid_mappings().is_none() && mounts[3].uid_mappings().is_some(), "the guest refuses the half");
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        let bundle = bundle();
        let real = bundle.path().canonicalize().unwrap();
        let refusal = |source: Value| {
            let mounts = json!([{"destination": "/x", "type": "bind", "source": source}]);
            planned(&bundle, mounts).unwrap_err().to_string()
        };
        let gone = real.join("gone");
        assert_eq!(refusal(json!("gone")), format!("mounts[0].source {}: no such file or directory", gone.display()));
        assert!(refusal(Value::Null).starts_with("mounts[0].source is missing"));
        assert!(refusal(json!("")).starts_with("mounts[0].source is missing"));
        let _socket = UnixDatagram::bind(real.join("socket")).unwrap();
        assert!(refusal(json!("socket")).contains("socket is a Unix socket for datagrams"));
        let console = json!("/dev/console");
        assert!(!Path::new("/dev/console").exists() || refusal(console).contains("is a character device"));
    }

    #[test]
    fn sockets_are_the_agents() {
        let bundle = bundle();
        let real = bundle.path().canonicalize().unwrap();
        let _socket = UnixListener::bind(real.join("socket")).unwrap();
        fs::write(real.join("file"), "").unwrap();
        symlink("socket", real.join("link")).unwrap();
        let mount = |source: &str| json!({"destination": "/x", "type": "bind", "source": source, "options": ["ro"]});
        let plan = planned(&bundle, json!([mount("link"), mount("file"), mount("socket")])).unwrap();
        let paths: Vec<_> = plan.sockets.list.iter().map(|socket| socket.path.clone()).collect();
        assert_eq!(paths, [real.join("socket"), real.join("socket")]);
        assert!(plan.sockets.identities.allow(1000, 1000));
        let sources: Vec<_> = plan.spec.mounts().iter().flatten().map(|m| m.source().clone().unwrap()).collect();
        let guest = |index: u32| Path::new(SOCKETS_DIR).join(format!("c1/{index}"));
        assert_eq!(sources, [guest(0), Path::new(SHARE_DIR).join("mounts/0"), guest(1)]);
        assert_eq!(plan.shares.len(), 2);
        let many = vec![mount("socket"); MAX_SOCKETS + 1];
        assert!(planned(&bundle, json!(many)).unwrap_err().to_string().ends_with("64 are possible"));
    }

    #[test]
    fn the_guests_own_is_not_shared() {
        let bundle = bundle();
        let mount = |source: &str, destination: &str| json!({"type": "none", "source": source, "destination": destination, "options": ["rbind"]});
        let list = json!([
            mount("/proc", "/proc"),
            mount("/sys", "/sys"),
            mount("/dev/null", "/dev/thing"),
            mount("/proc", "/host/proc")
        ]);
        let plan = planned(&bundle, list).unwrap();
        let shared: Vec<_> = plan.shares.iter().skip(1).map(|share| share.source.as_path()).collect();
        assert_eq!(shared, [Path::new("/proc")]);
        let mounts = plan.spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[2].source().as_deref(), Some(Path::new("/dev/null")));
        assert!(mounts[3].source().as_ref().unwrap().starts_with(SHARE_DIR));
    }

    #[test]
    fn root_must_be_a_directory() {
        let bundle = tempfile::tempdir().unwrap();
        let text = planned(&bundle, json!([])).unwrap_err().to_string();
        assert!(text.starts_with("root.path /") && text.ends_with("no such file or directory"), "{text}");
        fs::write(bundle.path().join("rootfs"), "").unwrap();
        assert!(planned(&bundle, json!([])).unwrap_err().to_string().ends_with("not a directory"));
    }
}
