//! What can go wrong with a call about a container, and the codes that callers see.

use std::io;

use agent_protocol::Plain;
use ttrpc::Code;

use super::sync::Failure;
use crate::{cgroup, mounts, network, sockets, spec, streams};

/// A call about a container that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An id that cannot name a directory.
    #[error("container id {0:?} is invalid: it must be 1 to 1024 letters, digits or `_+-.`, and not `.` or `..`")]
    Id(String),
    /// No such container.
    #[error("container {0:?} does not exist")]
    Unknown(String),
    /// Made before.
    #[error("container {0:?} already exists")]
    Exists(String),
    /// The guest is about to end.
    #[error("the guest is shutting down")]
    Ending,
    /// config.json.
    #[error("config.json: {0}")]
    Spec(#[from] spec::Error),
    /// The process of an exec.
    #[error("{0}")]
    Process(spec::Error),
    /// The state for hooks.
    #[error("the container's state: {0}")]
    State(serde_json::Error),
    /// The limits of an update.
    #[error("linux.resources: {0}")]
    Resources(serde_json::Error),
    /// An exec id that is in use.
    #[error("process {0:?} already exists")]
    ProcessExists(String),
    /// An exec id that never was, or was forgotten.
    #[error("process {0:?} does not exist")]
    NoProcess(String),
    /// More at once than can be.
    #[error("the container has {0} exec'd processes already")]
    TooMany(usize),
    /// runc's words.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// runc's words.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// Its streams.
    #[error(transparent)]
    Streams(#[from] streams::Error),
    /// Tokens that do not fit process.terminal.
    #[error("stdio: {0}")]
    Stdio(&'static str),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Its mounts, as far as they are made before it.
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    /// The host's sockets.
    #[error(transparent)]
    Sockets(#[from] sockets::Error),
    /// There is nowhere to make its socket.
    #[error(
        "NOTIFY_SOCKET is set, and was not when the container was created: set it for both commands, or for neither"
    )]
    NoNotify,
    /// Its network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The child said why.
    #[error("{}", .0.message)]
    Child(Failure),
    /// The child said nothing.
    #[error("the container's process ended before it was ready (status {0})")]
    Died(u32),
    /// Started before, or dead.
    #[error("container {id:?} is not in the state created: it {state}")]
    NotCreated {
        /// Its id.
        id: String,
        /// A verb.
        state: &'static str,
    },
    /// Words that containerd's shim looks for.
    #[error("container not running")]
    NotRunning,
    /// Resumed without a pause; runc's words.
    #[error("container not paused")]
    NotPaused,
    /// Of an exec'd process; words that containerd's shim looks for.
    #[error("os: process already finished")]
    Finished,
    /// No such signal.
    #[error("signal {0} does not exist")]
    Signal(u32),
    /// Resize without a terminal.
    #[error("the process has no terminal")]
    NoTerminal,
    /// One of the agent's own steps.
    #[error("cannot {step}: {}", Plain(source))]
    Step {
        /// A verb and its object.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The code that the reply carries.
    pub fn code(&self) -> Code {
        match self {
            Error::Id(_)
            | Error::Mounts(_)
            | Error::Spec(_)
            | Error::Process(_)
            | Error::Resources(_)
            | Error::State(_)
            | Error::Stdio(_)
            | Error::Sockets(sockets::Error::Request(_))
            | Error::Signal(_) => Code::INVALID_ARGUMENT,
            Error::Cgroup(
                cgroup::Error::Path(_)
                | cgroup::Error::Resource { .. }
                | cgroup::Error::Join { .. }
                | cgroup::Error::Outside(_),
            ) => Code::INVALID_ARGUMENT,
            Error::Network(network::Error::Invalid { .. }) => Code::INVALID_ARGUMENT,
            Error::Unknown(_) | Error::NoProcess(_) => Code::NOT_FOUND,
            Error::Exists(_) | Error::ProcessExists(_) => Code::ALREADY_EXISTS,
            Error::Ending => Code::UNAVAILABLE,
            Error::TooMany(_) => Code::RESOURCE_EXHAUSTED,
            Error::Streams(_) | Error::Sockets(sockets::Error::Stream(_)) => Code::DEADLINE_EXCEEDED,
            Error::NotCreated { .. }
            | Error::NotRunning
            | Error::NotPaused
            | Error::Finished
            | Error::ExecPaused
            | Error::ExecStopped
            | Error::NoNotify
            | Error::NoTerminal => Code::FAILED_PRECONDITION,
            Error::Child(failure) => failure.kind.code(),
            Error::Cgroup(_) | Error::Network(_) | Error::Sockets(_) | Error::Died(_) | Error::Step { .. } => {
                Code::INTERNAL
            }
        }
    }
}

/// Names what was tried.
pub fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Error {
    let step = step.into();
    move |source| Error::Step { step, source: source.into() }
}
