//! Why a container did not run to its end.

use std::io;

use crate::blocks::BlockError;
use crate::error::Plain;
use crate::guest::{ConnectError, GuestError};
use crate::images::ImageError;
use crate::monitor_process::MonitorError;
use crate::proxy::network::NetworkError;
use crate::rpc::RpcError;
use crate::trace::TraceError;

/// What failed in a proxy.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// KVM, the kernel or the initramfs.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Block devices.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// The network namespace.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The interfaces in it.
    #[error(transparent)]
    Interfaces(#[from] crate::network::NetworkError),
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

impl SessionError {
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

impl From<ConnectError> for SessionError {
    fn from(error: ConnectError) -> Self {
        Self::Guest(error.into())
    }
}

impl From<RpcError> for SessionError {
    fn from(error: RpcError) -> Self {
        Self::Guest(error.into())
    }
}
