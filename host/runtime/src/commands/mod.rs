//! What the command line asks for: one file per command.
//!
//! Errors have runc's words where callers look for them.

mod bounded;
pub mod create;
pub mod delete;
mod end;
pub mod events;
pub mod exec;
pub mod exec_process;
mod foreground;
pub mod handover;
pub mod kill;
pub mod list;
pub mod pause;
mod prepare;
pub mod ps;
mod rlimits;
pub mod run;
pub mod signal_name;
pub mod start;
pub mod state;
pub mod update;

use std::io;
use std::path::{Path, PathBuf};

use crate::blocks::BlockError;
use crate::bundle::BundleError;
use crate::cgroup::CgroupError;
use crate::error::Plain;
use crate::guest::{Guest, GuestError};
use crate::hooks::HookError;
use crate::images::ImageError;
use crate::install::InstallError;
use crate::joined::JoinError;
use crate::machine::MachineError;
use crate::notify::NotifyError;
use crate::preserved::PreservedError;
use crate::proxy::process::ProxyError;
use crate::rpc::RpcError;
use crate::settings::SettingsError;
use crate::share::ShareError;
use crate::spec::SpecError;
use crate::state::{ContainerId, Record, RemainsError, StateDir, StateError, Status};
use crate::terminal::TerminalError;
use crate::trace::TraceError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The micro-VM's size.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What would be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Block devices.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// KVM.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The container's state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller's terminal.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// SANDBOX_TRACE.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The container's process on the host.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The agent in the guest.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// NOTIFY_SOCKET.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// The container's network, in its process's words.
    #[error("{0}")]
    Network(String),
    /// One of the others, where one more process was wanted; callers know the words.
    #[error("exec failed: {0}")]
    Exec(Box<CommandError>),
    /// `docker run --network host`, or a pod with hostNetwork.
    #[error(
        "the container is to have the host's network, which a micro-VM cannot have: give it a network of its own (docker: --network bridge and -p; Kubernetes: no hostNetwork)"
    )]
    HostNetwork,
    /// Namespaces of other containers.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A file that the command line names.
    #[error("{option} {}: {}", .path.display(), Plain(.source))]
    File {
        /// The option.
        option: &'static str,
        /// Its value.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A terminal without somebody who takes it.
    #[error(
        "cannot allocate tty if runc will detach without setting console socket: use --console-socket, or a process without a terminal"
    )]
    NoConsoleSocket,
    /// Somebody waits for a terminal that there will not be.
    #[error("--console-socket is only for a container with a terminal: set process.terminal to true in config.json")]
    NoTerminal,
    /// `--preserve-fds`.
    #[error(transparent)]
    Preserved(#[from] PreservedError),
    /// `--cgroup` with a name before the colon.
    #[error("unknown controller {0} in --cgroup")]
    UnknownController(String),
    /// Started before.
    #[error("cannot start an already running container")]
    AlreadyRunning,
    /// In a state that has no start.
    #[error("cannot start a container in the {} state", .0.word())]
    CannotStart(Status),
    /// Ended before.
    #[error("cannot start a container that has stopped")]
    CannotStartStopped,
    /// It has ended, or its guest has.
    #[error("container not running")]
    NotRunning,
    /// It takes no more processes.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// It would not run.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// A process without a command.
    #[error("process args cannot be empty")]
    NoArguments,
    /// Not a user as numbers.
    #[error("--user {0:?}: give UID or UID:GID as numbers")]
    User(String),
    /// The guest has one hierarchy.
    #[error("--cgroup: all controllers must name the same cgroup, as in cgroup v2")]
    SubCgroups,
    /// Frozen already.
    #[error("container already paused")]
    AlreadyPaused,
    /// It runs.
    #[error("container not paused")]
    NotPaused,
    /// It uses nothing.
    #[error("container with id {0} is not running")]
    EventsNotRunning(String),
    /// The guest's numbers are none.
    #[error("what the guest says the container uses cannot be read: {0}")]
    Stats(String),
    /// The guest's kernel has no control of the processor's caches.
    #[error("{0} is not supported (a guest has no access to the processor's cache control)")]
    CacheControl(&'static str),
    /// The guest's kernel has no such module.
    #[error("{0} is not supported (the guest's kernel has neither AppArmor nor SELinux)")]
    NoSecurityModule(&'static str),
    /// It asks for what the guest's agent does not tell, or lacks what must follow it.
    #[error(
        "ps: option {0:?} is not supported: give -e, -f, -F, -l, -ly, -j, -a, -d, a, x, u, l, j, w, -o COLUMNS, -p PIDS, --ppid PIDS or --sort COLUMNS; all others are those of a ps in the container (sandbox exec)"
    )]
    PsOption(String),
    /// They are not ids of processes.
    #[error("ps: process ID list {0:?} is not numbers of processes, separated by commas")]
    PsIds(String),
    /// There is no such column, or the guest's agent does not tell it.
    #[error("ps: column {0:?} is not supported")]
    PsColumn(String),
    /// Only one of them can be printed.
    #[error("ps: conflicting format options")]
    PsFormats,
    /// No state of a container can be kept.
    #[error(
        "checkpoint is not supported: a running micro-VM cannot be saved; `docker commit` or `docker cp` keep the container's files"
    )]
    NoCheckpoint,
    /// So there is none to begin with.
    #[error("restore is not supported: a micro-VM cannot go on from a checkpoint; start the container without one")]
    NoRestore,
    /// It must end first.
    #[error("cannot delete container {id} that is not stopped: {}", .status.word())]
    NotStopped {
        /// Its ID.
        id: String,
        /// What it is.
        status: Status,
    },
    /// No signal has this name or number.
    #[error("unknown signal {0:?}")]
    Signal(String),
    /// Something of the container stays on the host.
    #[error(transparent)]
    Remains(#[from] RemainsError),
    /// The host's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// A configuration to begin with.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// docker's and containerd's configuration.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// What cannot be written or set up here.
    #[error("cannot {what}: {}", Plain(.source))]
    Io {
        /// A verb and its object.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl CommandError {
    /// The command's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Proxy(ProxyError::Failed { status, .. }) => *status,
            _ => 1,
        }
    }

    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    fn file(option: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { option, path, source }
    }
}

impl From<RpcError> for CommandError {
    fn from(error: RpcError) -> Self {
        Self::Guest(error.into())
    }
}

/// Other files for the guest than the usual ones.
#[derive(Clone, Debug, Default)]
pub struct Guests {
    /// Its kernel.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initramfs: Option<PathBuf>,
}

/// A container that was made before, and what is known of it.
fn find(root: &Path, id: &str) -> Result<(StateDir, Record), CommandError> {
    let state = StateDir::open(root, &ContainerId::new(id)?)?;
    // One whose `create` has not come far, or was killed early, is none yet.
    let record = state.read()?.ok_or(StateError::Unknown)?;
    Ok((state, record))
}

/// The same, with no other command at work on it.
fn find_locked(root: &Path, id: &str) -> Result<(StateDir, Record), CommandError> {
    let mut state = StateDir::open(root, &ContainerId::new(id)?)?;
    state.lock()?;
    let record = state.read()?.ok_or(StateError::Unknown)?;
    Ok((state, record))
}

/// The agent of a container that has not ended.
fn reach(state: &StateDir, record: &Record) -> Result<Guest, CommandError> {
    let guest = Guest::reach(&state.socket(), &record.id).map_err(|error| ended_or(record, error.into()))?;
    log::debug!("the guest of container {} answers", record.id);
    Ok(guest)
}

/// A container that ended meanwhile is the better reason for a call that failed.
fn ended_or(record: &Record, error: CommandError) -> CommandError {
    if record.status() == Status::Stopped { CommandError::NotRunning } else { error }
}
