//! A keeper (`monitor/keeper.rs`), seen from who starts it.

use std::sync::{Arc, PoisonError};

use super::{End, Fate, MonitorError, MonitorProcess, ORDER_TIMEOUT, Role, Shared};
use crate::control::KeeperConfig;
use crate::guest::Guest;
use crate::sys::Streams;

impl MonitorProcess {
    /// Starts what a container has in a monitor's place whose micro-VM is another container's.
    pub fn spawn_keeper(id: &str, streams: Streams) -> Result<Self, MonitorError> {
        Self::start(id, Role::Keeper, streams, &[], |_| {})
    }

    /// Has a keeper put shares where the guest sees them; when this returns, they are there.
    pub fn keep(&self, config: &KeeperConfig) -> Result<(), MonitorError> {
        self.begin(config)?;
        if self.shared.wait_attached() { Ok(()) } else { Err(self.unanswered()) }
    }

    /// Closes this connection when the process ends. Those by way of a monitor end with it; a keeper has no part in any, and nobody else
    /// would tell that it was killed.
    pub fn tie(&self, guest: Arc<Guest>) {
        let mut fate = self.shared.fate();
        if fate.end.is_some() {
            guest.close();
        } else {
            fate.tied = Some(guest);
        }
    }

    /// Whether it has ended as one does that has done its part.
    pub fn has_done_its_part(&self) -> bool {
        self.shared.fate().end == Some(End::Exited(0))
    }
}

impl Shared {
    /// Waits until a keeper's shares are there; false if it ended instead, or took too long.
    fn wait_attached(&self) -> bool {
        let waiting = |fate: &mut Fate| fate.end.is_none() && !fate.attached;
        let waited = self.changed.wait_timeout_while(self.fate(), ORDER_TIMEOUT, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.attached
    }
}

/// Does what a keeper that was killed has left to do. What fails is logged: it stays until the micro-VM ends.
pub fn clear(config: &KeeperConfig) {
    let cleared = MonitorProcess::spawn_keeper(&config.id, Streams::Null).and_then(|keeper| {
        keeper.begin(config)?;
        keeper.shared.wait_end(Role::Keeper.patience() * 2);
        if keeper.has_done_its_part() { Ok(()) } else { Err(keeper.unanswered()) }
    });
    if let Err(error) = cleared {
        log::warn!("container {:?} has left files in the micro-VM that it shared: {error}", config.id);
    }
}
