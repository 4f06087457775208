//! What the monitor is told while its VM runs: network devices come and go, and it grows.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vmm::devices::net::{Net, NetConfig};
use vmm::event_loop::LoopHandle;
use vmm::vm::{Running, VmError};

use super::report::Reporter;
use super::wishes::Wishes;
use crate::control::{MonitorEvent, MonitorOrder};
use crate::descriptors;

/// Longer than any order.
const ORDER_MAX: usize = 4096;

/// A VM that runs.
pub struct Started {
    running: Running,
    device_loop: LoopHandle,
    wishes: Wishes,
}

impl Started {
    /// A VM, the loop for its devices, and its guest's wishes.
    pub fn new(running: Running, device_loop: LoopHandle, wishes: Wishes) -> Self {
        Started { running, device_loop, wishes }
    }

    /// Carries out orders until the other end of `control` is closed. One comes when the one before is answered, so that each is a
    /// message of its own.
    pub fn obey(&self, control: &UnixStream, reporter: &Reporter) {
        let mut line = [0; ORDER_MAX];
        while let Ok((length @ 1.., descriptors)) = descriptors::receive(control.as_fd(), &mut line) {
            let order = serde_json::from_slice(line.get(..length).unwrap_or_default()).map_err(|e| e.to_string());
            let done = order.and_then(|order| self.carry_out(&order, descriptors, reporter));
            reporter.send(&done.unwrap_or_else(|message| MonitorEvent::Refused { message }));
        }
    }

    fn carry_out(
        &self,
        order: &MonitorOrder,
        descriptors: Vec<OwnedFd>,
        reporter: &Reporter,
    ) -> Result<MonitorEvent, String> {
        match *order {
            MonitorOrder::Plug { mac } => {
                let mut descriptors = descriptors.into_iter();
                let tap = descriptors.next().ok_or("no tap came with the order")?;
                let config = NetConfig { tap, mac, vhost: descriptors.next() };
                done(self.running.plug(Box::new(Net::new(config, self.device_loop.clone()))))
            }
            MonitorOrder::Grow { bytes } => done(self.running.grow(bytes, &self.device_loop)),
            MonitorOrder::ReportFreePages => done(self.running.report_free_pages(&self.device_loop)),
            MonitorOrder::HearWishes => {
                self.wishes.considered();
                Ok(MonitorEvent::Done { window: 0 })
            }
            MonitorOrder::Unplug { window } => {
                let index = usize::try_from(window).map_err(|e| e.to_string())?;
                self.running.unplug(index).map_err(|e| e.to_string())?;
                Ok(MonitorEvent::Done { window })
            }
            MonitorOrder::Console => Ok(MonitorEvent::Console { lines: reporter.console_lines() }),
        }
    }
}

fn done(window: Result<usize, VmError>) -> Result<MonitorEvent, String> {
    let window = window.map_err(|error| error.to_string())?;
    Ok(MonitorEvent::Done { window: u32::try_from(window).map_err(|error| error.to_string())? })
}
