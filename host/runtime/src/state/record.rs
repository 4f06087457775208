//! What is kept of a container between commands: ROOT/ID/state.json.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};

use crate::cgroup::HostCgroup;
use crate::hooks::Phase;
use crate::joined;
use crate::process_id::ProcessId;
use crate::state::ContainerId;
use crate::timestamp;

/// Shown with a container whose guest failed.
const REASON_ANNOTATION: &str = "io.sandbox.reason";

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its process was executed.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its process has ended. Never stored: it is found out.
    Stopped,
}

impl Status {
    /// The word of the OCI runtime specification (and runc's `paused`).
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its ID.
    pub id: String,
    /// As of the last command that changed it; [`Record::status`] is the truth.
    pub status: Status,
    /// What it was before it was paused.
    #[serde(default)]
    pub before_pause: Option<Status>,
    /// Of its config.json.
    pub oci_version: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// Of its config.json.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The process behind the container's pid.
    pub proxy: ProcessId,
    /// The micro-VM's.
    pub monitor: Option<ProcessId>,
    /// The container whose micro-VM it is, where it has none of its own.
    #[serde(default)]
    pub joined: Option<String>,
    /// The user namespace of the host, by device and inode, that the configuration gave it, where the guest has one like it.
    #[serde(default)]
    pub user_namespace: Option<(u64, u64)>,
    /// The host's cgroup, once it is made.
    pub cgroup: Option<HostCgroup>,
    /// Hooks that later commands run.
    #[serde(default)]
    pub poststart: Vec<Hook>,
    /// Hooks that `delete` runs.
    #[serde(default)]
    pub poststop: Vec<Hook>,
    /// How long its hooks in the guest may take when it is started, as far as they say.
    #[serde(default)]
    pub start_seconds: u64,
    /// The container's process has a terminal.
    pub terminal: bool,
    /// Why it ended, where its own process does not tell: in a file of its own.
    #[serde(skip)]
    pub reason: Option<String>,
    /// It belongs to a `run` that waits for its end and removes it.
    pub attached: bool,
}

/// A container as the OCI runtime specification wants it shown ("State").
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Record {
    /// A container that is about to be made.
    pub fn new(id: &ContainerId, spec: &Spec, bundle: PathBuf, rootfs: PathBuf, proxy: ProcessId) -> Self {
        let hooks = |phase: Phase| spec.hooks().as_ref().map_or_else(Vec::new, |hooks| phase.of(hooks).to_vec());
        let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        Self {
            id: id.to_string(),
            status: Status::Creating,
            before_pause: None,
            oci_version: spec.version().clone(),
            bundle,
            rootfs,
            created: timestamp::now(),
            annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            proxy,
            monitor: None,
            joined: None,
            user_namespace: joined::given_user_namespace(spec),
            cgroup: None,
            poststart: hooks(Phase::Poststart),
            poststop: hooks(Phase::Poststop),
            start_seconds: 0,
            terminal,
            attached: false,
            reason: None,
        }
    }

    /// What it is now.
    pub fn status(&self) -> Status {
        if self.proxy.is_alive() { self.status } else { Status::Stopped }
    }

    /// Nobody will ask for it: its command was killed before the container was made, or while it waited for its end.
    pub fn is_abandoned(&self) -> bool {
        !self.proxy.is_alive() && (self.attached || self.status == Status::Creating)
    }

    /// The same as a text.
    pub fn shown_json(&self) -> String {
        serde_json::to_string(&self.shown()).unwrap_or_default()
    }

    /// For `state`, `list` and hooks.
    pub fn shown(&self) -> Shown {
        let status = self.status();
        let reason = self.reason.iter().map(|sentence| (REASON_ANNOTATION.to_string(), sentence.clone()));
        Shown {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            pid: if status == Status::Stopped { 0 } else { self.proxy.pid },
            status,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone().into_iter().chain(reason).collect(),
            owner: String::new(),
        }
    }
}
