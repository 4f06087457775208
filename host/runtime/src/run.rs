//! `sandbox run`: from a bundle to an exit status.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::{Bundle, BundleError};
use crate::error::Plain;
use crate::guest::{ConnectError, GuestError};
use crate::guest_files::GuestFiles;
use crate::images::{ImageError, Images};
use crate::machine::{Machine, MachineError};
use crate::monitor_process::MonitorError;
use crate::rpc::RpcError;
use crate::session::Session;
use crate::share::{self, ShareError};
use crate::signals::Signals;
use crate::state::{ContainerId, StateDir, StateError};
use crate::sys::now_ns;
use crate::terminal::{Terminal, TerminalError};
use crate::trace::{Lane, Trace, TraceError};

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The container's name.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Where state is kept.
    pub root: PathBuf,
    /// The guest's kernel and initramfs.
    pub guest: GuestFiles,
}

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The micro-VM's size.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What would be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// KVM, the kernel or the initramfs.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The caller's terminal.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// SANDBOX_TRACE.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The monitor, or the guest as the monitor sees it.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The agent.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Something of this process could not be set up.
    #[error("cannot set up {what}: {}", Plain(.source))]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A signal ended the start.
    #[error("signal {0} ended the start of the container")]
    Aborted(i32),
}

impl RunError {
    /// The command's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Aborted(signal) => u8::try_from(128 + signal).unwrap_or(1),
            _ => 1,
        }
    }

    pub(crate) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Setup { what, source }
    }
}

impl From<ConnectError> for RunError {
    fn from(error: ConnectError) -> Self {
        Self::Guest(error.into())
    }
}

impl From<RpcError> for RunError {
    fn from(error: RpcError) -> Self {
        Self::Guest(error.into())
    }
}

/// Runs a container from start to end. Returns its exit status. `start_ns` is when this process started.
pub fn run(options: &Options, start_ns: u64) -> Result<u8, RunError> {
    let trace = Arc::new(Trace::from_environment(start_ns)?);
    let status = run_traced(options, &trace);
    trace.now(Lane::Command, "cleaned up");
    let written = trace.write();
    let status = status?;
    written?;
    Ok(status)
}

/// All checks that need no guest come before anything is made.
fn run_traced(options: &Options, trace: &Arc<Trace>) -> Result<u8, RunError> {
    let begin = now_ns();
    let id = ContainerId::new(&options.id)?;
    let bundle = Bundle::load(&options.bundle)?;
    let machine = Machine::of(&bundle.spec)?;
    let plan = share::plan(&bundle.spec, &bundle.directory, id.as_str())?;
    let terminal = bundle.wants_terminal().then(Terminal::find).transpose()?;
    trace.span(Lane::Command, "read config", begin, trace.now(Lane::Command, "config read"));

    let signals = Signals::hold().map_err(RunError::setup("signals"))?;
    let state = StateDir::create(&options.root, &id)?;
    let images = Images::open(&options.guest, &options.root)?;
    Session::start(id, state, &images, trace.clone())?.run(signals, machine, plan, terminal)
}
