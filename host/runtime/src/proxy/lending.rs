//! What a container's proxy does for the proxies of those that live in its micro-VM: it carries their orders to its monitor, and takes back
//! what they had when they are gone.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Weak;

use crate::control::{MonitorEvent, MonitorOrder};
use crate::descriptors;
use crate::guest::Guest;
use crate::network::windows::READY;
use crate::session::Session;
use crate::state::socket_in;

/// Longer than any order.
const ORDER_MAX: usize = 4096;

/// What one other proxy has plugged in.
struct Lease<'s> {
    session: &'s Weak<Session>,
    /// The container that it is for.
    id: &'s str,
    windows: Vec<u32>,
}

/// Carries out orders for container `id` until the connection ends.
pub fn lend(mut connection: UnixStream, session: &Weak<Session>, id: &str) -> io::Result<()> {
    let mut lease = Lease { session, id, windows: Vec::new() };
    connection.write_all(&[READY])?;
    let mut line = [0; ORDER_MAX];
    while let (length @ 1.., descriptors) = descriptors::receive(connection.as_fd(), &mut line)? {
        let order = serde_json::from_slice(line.get(..length).unwrap_or_default()).map_err(|error| error.to_string());
        let answer = match order.and_then(|order| lease.carry_out(&order, &descriptors)) {
            Ok(window) => MonitorEvent::Done { window },
            Err(message) => MonitorEvent::Refused { message },
        };
        let mut answer = serde_json::to_vec(&answer)?;
        answer.push(b'\n');
        connection.write_all(&answer)?;
    }
    Ok(())
}

impl Lease<'_> {
    fn carry_out(&mut self, order: &MonitorOrder, with: &[OwnedFd]) -> Result<u32, String> {
        if let MonitorOrder::Unplug { window } = order
            && !self.windows.contains(window)
        {
            return Err(format!("window {window} is another container's"));
        }
        if !matches!(order, MonitorOrder::Plug { .. } | MonitorOrder::Unplug { .. }) {
            return Err("only network devices come and go by this connection".to_string());
        }
        let window = self.pass_on(order, with)?;
        self.windows.retain(|one| *one != window);
        if matches!(order, MonitorOrder::Plug { .. }) {
            self.windows.push(window);
        }
        Ok(window)
    }

    fn pass_on(&self, order: &MonitorOrder, with: &[OwnedFd]) -> Result<u32, String> {
        let session = self.session.upgrade().ok_or("the container that has the micro-VM has ended")?;
        let with: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
        session.windows()?.order(order, &with).map_err(|error| error.to_string())?
    }
}

impl Drop for Lease<'_> {
    /// The guest's driver lets go of the devices when the container ends: another one's must not come in their place before.
    fn drop(&mut self) {
        if self.windows.is_empty() {
            return;
        }
        let state = self.session.upgrade().map(|session| session.state());
        // An error means that there is no such container any more.
        let _ = state.map(|state| Guest::reach(&socket_in(state.as_fd()), self.id).map(|guest| guest.wait()));
        for window in std::mem::take(&mut self.windows) {
            if let Err(reason) = self.pass_on(&MonitorOrder::Unplug { window }, &[]) {
                log::debug!("window {window}: {reason}");
            }
        }
    }
}
