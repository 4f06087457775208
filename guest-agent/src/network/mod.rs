//! A container's network: virtio-net devices that the host plugs into windows while the guest runs, and what is set up by way of them.

mod apply;
mod check;
mod description;
mod device;
mod error;
mod messages;
mod netlink;
mod plan;

use std::os::fd::OwnedFd;

pub use apply::inside;
pub use check::check;
pub use description::Network;
pub use device::bind;
pub use error::Error;
pub use plan::plan;

use apply::{Indices, Place};

/// What of a container's network was set up by the agent.
#[derive(Default)]
pub struct Established {
    network: Network,
    indices: Indices,
}

impl Established {
    /// Makes it what is wanted, in the container's network namespace (or in the guest's own, where it has none). Ends with the first step
    /// that fails; the next call goes on from there.
    pub fn update(&mut self, wanted: &Network, namespace: Option<&OwnedFd>) -> Result<(), Error> {
        let steps = plan(&self.network, wanted);
        if steps.is_empty() {
            return Ok(());
        }
        let mut place = Place::open(namespace)?;
        for step in steps {
            place.perform(&step, &self.network, &mut self.indices)?;
            self.network.record(&step);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
