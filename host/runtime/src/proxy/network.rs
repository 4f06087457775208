//! The network namespace of a container's host side.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::protocol::Network;
use crate::error::Plain;
use crate::sys;

/// There is no such namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The one that config.json names.
    #[error("linux.namespaces: network namespace {}: {}", .path.display(), Plain(.source))]
    Join {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new one.
    #[error("cannot make a network namespace: {}", Plain(.0))]
    Make(io::Error),
}

impl Network {
    /// What a configuration asks for.
    pub fn of(spec: &Spec) -> Self {
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        match namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
            None => Self::Host,
            Some(namespace) => match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => Self::New,
                Some(path) => Self::Path(path.clone()),
            },
        }
    }

    /// Moves this process, which must have one thread, there.
    pub fn enter(&self) -> Result<(), NetworkError> {
        match self {
            Self::Host => Ok(()),
            Self::New => sys::unshare_network().map_err(NetworkError::Make),
            Self::Path(path) => join(path).map_err(|source| NetworkError::Join { path: path.clone(), source }),
        }
    }
}

/// Moves this process, which must have one thread, to the network namespace that a file stands for.
pub(super) fn join(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}
