//! What concerns the network of a container that exists: its namespace is that of its first process.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use agent_protocol::agent::UpdateNetworkRequest;

use super::namespaces::path_of;
use super::{Container, Error, step};
use crate::network::{self, Network};
use crate::spec;

impl Container {
    /// Brings the network into the state that the request describes. It is the guest's own where the container has none.
    pub fn update_network(&self, request: &UpdateNetworkRequest) -> Result<(), Error> {
        let mut wanted = network::check(request)?;
        for (name, file, value) in spec::sysctl::of_interfaces(&self.plan.spec) {
            for interface in wanted.interfaces.iter_mut().filter(|interface| interface.name == name) {
                interface.sysctls.push((file.clone(), value.clone()));
            }
        }
        let namespace = self.network_namespace()?;
        let mut established = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(established.update(&wanted, namespace.as_ref())?)
    }

    /// Whether all interfaces are there for which config.json sets something.
    pub fn check_sysctls(&self) -> Result<(), Error> {
        let mut given = spec::sysctl::of_interfaces(&self.plan.spec).peekable();
        if given.peek().is_none() {
            return Ok(());
        }
        let namespace = self.network_namespace()?;
        for (_, file, _) in given {
            let path = Path::new("/proc/sys").join(&file);
            let found = network::inside(namespace.as_ref(), || fs::metadata(&path));
            found.map_err(step::<io::Error>(format!("set linux.sysctl {:?}", file.replace('/', "."))))?;
        }
        Ok(())
    }

    /// Gives back the windows of its interfaces, which others may need.
    pub fn leave_network(&self) {
        let mut established = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = established.update(&Network::default(), None) {
            log::warn!("the interfaces of container {:?} stay: {error}", self.id);
        }
    }

    /// The network namespace, unless it is the guest's own.
    pub fn network_namespace(&self) -> Result<Option<OwnedFd>, Error> {
        if self.first.has_exited() {
            return Err(Error::NotRunning);
        }
        if !self.plan.namespaces.is_own(libc::CLONE_NEWNET) {
            return Ok(None);
        }
        let path = format!("/proc/{}/ns/net", self.first.pid().as_raw_pid());
        let file = File::open(&path).map_err(step::<io::Error>(format!("open {path}")))?;
        Ok(Some(file.into()))
    }

    /// Where its namespace of a kind is found.
    pub fn namespace_path(&self, flag: i32) -> Result<PathBuf, Error> {
        let path = path_of(self.first.pid(), flag).filter(|_| !self.first.has_exited());
        path.ok_or(Error::NotRunning)
    }

    /// The cgroup's directory.
    pub fn cgroup_directory(&self) -> Result<OwnedFd, Error> {
        Ok(self.cgroup.open("")?)
    }

    /// Returns when the first process has exited.
    pub async fn exited(&self) {
        // An error means that nobody can tell any more.
        let _ = self.first.exit().wait_for(Option::is_some).await;
    }
}
