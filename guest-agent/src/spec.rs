//! What the agent makes of a config.json: everything that can be checked or computed before a process exists.

pub mod hooks;
pub mod process;
pub mod sysctl;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxPersonalityDomain, Mount, Spec};

use crate::mappings::map_text;
use crate::mounts::id_map::IdMaps;
use crate::mounts::options::{self, MountOptions};
use crate::seccomp;
pub use process::ProcessPlan;

/// A config.json that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or not of the schema; serde_json names line and column.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field without which nothing can run.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that has no effect here, and is therefore refused.
    #[error("{field} is not supported in the guest: {reason}")]
    Unsupported {
        /// As in the specification.
        field: String,
        /// One clause.
        reason: &'static str,
    },
    /// A value that means nothing.
    #[error("{field}: {problem}")]
    Invalid {
        /// As in the specification.
        field: String,
        /// One clause.
        problem: String,
    },
    /// From the mount options.
    #[error("mounts[{index}]: {source}")]
    Mount {
        /// Position in the list.
        index: usize,
        /// What is wrong.
        source: options::Error,
    },
    /// From the seccomp profile.
    #[error("linux.seccomp: {0}")]
    Seccomp(#[from] seccomp::Error),
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Invalid { field: field.into(), problem: problem.into() }
}

/// One mount, its options taken apart.
pub struct MountPlan {
    /// Inside the container.
    pub destination: PathBuf,
    /// File system type; empty for a bind mount without one.
    pub fs_type: String,
    /// Path in the guest, or a name that the file system may show.
    pub source: PathBuf,
    /// Flags, data, propagation.
    pub options: MountOptions,
    /// Of an id-mapped mount.
    pub id_maps: Option<IdMaps>,
}

/// A checked config.json with all that was computed from it.
pub struct Plan {
    /// The text itself, for what is applied as it stands.
    pub spec: Spec,
    /// process.
    pub process: ProcessPlan,
    /// mounts, in order.
    pub mounts: Vec<MountPlan>,
    /// Namespaces to make, and to join.
    pub namespaces: Namespaces,
    /// Compiled filter.
    pub seccomp: Option<seccomp::Program>,
    /// linux.personality.
    pub personality: Option<u64>,
    /// hooks, those of the guest.
    pub hooks: hooks::Hooks,
}

/// CLONE_NEW… flags of the new namespaces and paths of the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// All that are new.
    pub new: i32,
    /// Flag and path of those to join.
    pub joined: Vec<(i32, PathBuf)>,
}

impl Namespaces {
    /// Whether the container has a new one of this kind.
    pub fn is_new(&self, flag: i32) -> bool {
        self.new & flag != 0
    }

    /// Whether it is to join one of this kind.
    pub fn joins(&self, flag: i32) -> bool {
        self.joined.iter().any(|(f, _)| *f == flag)
    }

    /// Whether the container has not the guest's own.
    pub fn is_own(&self, flag: i32) -> bool {
        self.is_new(flag) || self.joins(flag)
    }
}

impl Plan {
    /// Reads and checks the text. Hooks of the host's phases are not the agent's affair.
    pub fn new(json: &[u8]) -> Result<Plan, Error> {
        let spec = read(json)?;
        refuse(&spec)?;
        let process = ProcessPlan::new(spec.process().clone().ok_or(Error::Missing("process"))?)?;
        let root = spec.root().as_ref().ok_or(Error::Missing("root"))?;
        if !root.path().is_absolute() {
            return Err(invalid("root.path", "must be an absolute path in the guest"));
        }
        let namespaces = namespaces(&spec)?;
        sysctl::check(&spec, &namespaces)?;
        let linux = spec.linux().as_ref();
        let seccomp = linux.and_then(|l| l.seccomp().as_ref()).map(seccomp::compile).transpose()?;
        Ok(Plan {
            process,
            mounts: mounts(&spec)?,
            namespaces,
            seccomp,
            personality: personality(&spec)?,
            hooks: hooks::hooks(&spec)?,
            spec,
        })
    }

    /// Gives the configuration of a container that joins this one's user namespace its mappings. What it says of them itself must be true:
    /// files and devices are made by it.
    pub fn lend_mappings(&self, id: &str, to: &mut Spec) -> Result<(), Error> {
        let no = |problem: String| Err(invalid("linux.namespaces", problem));
        let lent = self.spec.linux().as_ref().filter(|_| self.namespaces.is_own(libc::CLONE_NEWUSER));
        let (Some(lent), Some(own)) = (lent, to.linux_mut()) else {
            return no(format!("container {id:?} has no user namespace of its own that could be joined"));
        };
        let fits = |own: &Option<Vec<_>>, lent| own.as_ref().is_none_or(Vec::is_empty) || own == lent;
        if !fits(own.uid_mappings(), lent.uid_mappings()) || !fits(own.gid_mappings(), lent.gid_mappings()) {
            return no(format!(
                "linux.uidMappings and linux.gidMappings are not those of container {id:?}, whose user namespace is joined"
            ));
        }
        own.set_uid_mappings(lent.uid_mappings().clone()).set_gid_mappings(lent.gid_mappings().clone());
        Ok(())
    }

    /// root.path.
    pub fn root(&self) -> &Path {
        self.spec.root().as_ref().map_or(Path::new("/nonexistent"), |r| r.path())
    }

    /// root.readonly.
    pub fn read_only(&self) -> bool {
        self.spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false)
    }
}

fn read(json: &[u8]) -> Result<Spec, Error> {
    if !process::has_flags(json) {
        return Ok(serde_json::from_slice(json)?); // errors tell the place
    }
    let mut value: serde_json::Value = serde_json::from_slice(json)?;
    if let Some(process) = value.get_mut("process") {
        process::rename_flags(process);
    }
    Ok(serde_json::from_value(value)?)
}

/// Refuses by name what the agent would otherwise have to ignore.
fn refuse(spec: &Spec) -> Result<(), Error> {
    let no = |field: &str, reason| Err(Error::Unsupported { field: field.to_owned(), reason });
    let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
    let Some(linux) = spec.linux() else { return Ok(()) };
    if given(linux.mount_label()) {
        return no("linux.mountLabel", "its kernel has no SELinux");
    }
    if linux.intel_rdt().is_some() {
        return no("linux.intelRdt", "the cache is the host's to divide");
    }
    if linux.memory_policy().is_some() {
        return no("linux.memoryPolicy", "the guest has one memory node");
    }
    if linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return no("linux.netDevices", "host devices cannot move into it");
    }
    Ok(())
}

fn mounts(spec: &Spec) -> Result<Vec<MountPlan>, Error> {
    let mut plans = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = options::parse(mount.options().as_deref().unwrap_or_default())
            .map_err(|source| Error::Mount { index, source })?;
        if mount.destination().as_os_str().is_empty() {
            return Err(invalid(format!("mounts[{index}].destination"), "is empty"));
        }
        let id_maps = id_maps(index, mount, &options, spec)?;
        plans.push(MountPlan {
            destination: mount.destination().clone(),
            fs_type: mount.typ().clone().unwrap_or_default(),
            source: mount.source().clone().unwrap_or_default(),
            options,
            id_maps,
        });
    }
    Ok(plans)
}

/// The mount's own mappings, or with the option alone those of the container.
fn id_maps(index: usize, mount: &Mount, options: &MountOptions, spec: &Spec) -> Result<Option<IdMaps>, Error> {
    let own = [mount.uid_mappings(), mount.gid_mappings()].map(|m| m.as_deref().unwrap_or_default());
    let linux = spec.linux().as_ref();
    let [uid, gid] = match own {
        [[], []] if options.id_map.is_none() => return Ok(None),
        [[], []] => [linux.and_then(|l| l.uid_mappings().as_deref()), linux.and_then(|l| l.gid_mappings().as_deref())]
            .map(Option::unwrap_or_default),
        own => own,
    };
    let no = |problem: &str| Err(invalid(format!("mounts[{index}].uidMappings"), problem));
    if uid.is_empty() || gid.is_empty() {
        return no("an id-mapped mount needs mappings of both users and groups");
    }
    if !options.bind && mount.typ().as_deref() != Some("bind") || options.remount {
        return no("id-mapped mounts are only supported for bind mounts");
    }
    Ok(Some(IdMaps { uid: map_text(uid), gid: map_text(gid) }))
}

fn namespaces(spec: &Spec) -> Result<Namespaces, Error> {
    let mut result = Namespaces::default();
    for namespace in spec.linux().iter().flat_map(|l| l.namespaces().iter().flatten()) {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
        };
        if result.is_own(flag) {
            return Err(invalid("linux.namespaces", format!("{} is given twice", namespace.typ())));
        }
        match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
            Some(path) => result.joined.push((flag, path.clone())),
            None => result.new |= flag,
        }
    }
    if !result.is_own(libc::CLONE_NEWNS) {
        return Err(invalid("linux.namespaces", "mount is missing: a container cannot change the guest's own mounts"));
    }
    if result.joins(libc::CLONE_NEWNS) {
        return Err(invalid(
            "linux.namespaces",
            "a mount namespace cannot be joined: the container's root is made in a new one",
        ));
    }
    if let Some(linux) = spec.linux() {
        let mapped = linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty());
        if mapped && !result.is_own(libc::CLONE_NEWUSER) {
            return Err(invalid("linux.uidMappings", "needs a user namespace"));
        }
        if !mapped && result.is_new(libc::CLONE_NEWUSER) {
            return Err(invalid("linux.uidMappings", "a new user namespace needs mappings"));
        }
        if linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()) && !result.is_new(libc::CLONE_NEWTIME) {
            return Err(invalid("linux.timeOffsets", "needs a new time namespace"));
        }
    }
    // The kernel checks these two with the guest's names otherwise.
    if spec.hostname().is_some() && !result.is_own(libc::CLONE_NEWUTS) {
        return Err(invalid("hostname", "needs a UTS namespace"));
    }
    if spec.domainname().is_some() && !result.is_own(libc::CLONE_NEWUTS) {
        return Err(invalid("domainname", "needs a UTS namespace"));
    }
    Ok(result)
}

fn personality(spec: &Spec) -> Result<Option<u64>, Error> {
    let Some(given) = spec.linux().as_ref().and_then(|l| l.personality().as_ref()) else { return Ok(None) };
    if given.flags().as_ref().is_some_and(|f| !f.is_empty()) {
        return Err(invalid("linux.personality.flags", "the specification defines none"));
    }
    Ok(Some(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
