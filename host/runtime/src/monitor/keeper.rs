//! What a container has in the monitor's place whose micro-VM is another container's: a process that puts the container's shares into that
//! monitor's jail, and takes them out again when the container has ended, however its other processes end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

use super::report::Reporter;
use crate::control::{MonitorConfig, MonitorEvent};
use crate::guest::Guest;
use crate::jail::JoinedShares;
use crate::process_id::ProcessId;

/// Keeps the shares until the other end of `control` is closed, or the micro-VM ends.
pub fn run(config: &MonitorConfig, monitor: ProcessId, control: &UnixStream, reporter: &Reporter) -> ExitCode {
    // Before this process is in another mount namespace.
    let guest = Guest::reach(&config.socket, &config.id);
    match attach(config, monitor) {
        Ok((shares, handle)) => {
            reporter.send(&MonitorEvent::Done { window: 0 });
            let mut ends = [PollFd::new(control, PollFlags::IN), PollFd::new(&handle, PollFlags::IN)];
            let _ = retry_on_intr(|| poll(&mut ends, None));
            if !ends[1].revents().is_empty() {
                let message = "the micro-VM that the container shares has ended, and with it the container";
                reporter.send(&MonitorEvent::Failed { message: message.to_string() });
            }
            drop(shares);
            // Where the container's proxy was killed nobody else ends it. Most often it has ended, and the answer is an error.
            let _ = guest.map(|guest| guest.signal(libc::SIGKILL.unsigned_abs(), true));
            ExitCode::SUCCESS
        }
        Err(message) => {
            reporter.send(&MonitorEvent::Failed { message });
            ExitCode::FAILURE
        }
    }
}

fn attach(config: &MonitorConfig, monitor: ProcessId) -> Result<(JoinedShares, OwnedFd), String> {
    let gone = || "the micro-VM that the container is to share has ended".to_string();
    let handle = monitor.open().ok_or_else(gone)?.into_descriptor();
    let path = format!("/proc/{}/ns/mnt", monitor.pid);
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|_| gone())?;
    // The number may have become another's before the file was opened.
    if !monitor.is_alive() {
        return Err(gone());
    }
    let shares = JoinedShares::attach(&config.shares, &namespace).map_err(|error| error.to_string())?;
    Ok((shares, handle))
}
