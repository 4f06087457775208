//! What the monitor is told while its VM runs: network devices come and go, and it grows.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vmm::devices::net::{Net, NetConfig, QueuePair};
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
            MonitorOrder::Plug { mac, queues } => {
                let config = NetConfig { pairs: pairs(descriptors, queues)?, mac };
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

/// The first of the descriptors are the queues of a tap, the others the vhosts for them.
fn pairs(mut descriptors: Vec<OwnedFd>, queues: usize) -> Result<Vec<QueuePair>, String> {
    if queues == 0 || descriptors.len() < queues {
        return Err(format!(
            "a tap with {queues} queues was to come with the order, and {} descriptors came",
            descriptors.len()
        ));
    }
    let mut vhosts = descriptors.split_off(queues).into_iter();
    Ok(descriptors.into_iter().map(|tap| QueuePair { tap, vhost: vhosts.next() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_comes_with_all_its_queues() {
        let came =
            |count| (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect::<Vec<OwnedFd>>();
        let with_vhost = |count, queues| -> Vec<bool> {
            pairs(came(count), queues).unwrap().iter().map(|pair| pair.vhost.is_some()).collect()
        };
        assert_eq!(with_vhost(1, 1), [false]);
        assert_eq!(with_vhost(4, 2), [true, true]);
        assert_eq!(with_vhost(3, 2), [true, false]);
        for (count, queues) in [(0, 0), (0, 1), (2, 0), (2, 3), (2, usize::MAX)] {
            assert!(pairs(came(count), queues).is_err(), "{count} {queues}");
        }
    }
}
