//! What a container has in the monitor's place whose micro-VM is another container's: a process that puts the container's shares into that
//! monitor's jail, and takes them out again when the container has ended, however its other processes end. Where it is killed itself,
//! another one does the rest ([`KeeperTask::Clear`]).

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

use super::report::Reporter;
use crate::control::{KeeperConfig, KeeperTask, MonitorEvent, Share};
use crate::guest::Guest;
use crate::jail::{self, JoinedShares};
use crate::joined;

/// Does what it is asked for, to the end.
pub fn run(config: &KeeperConfig, control: &UnixStream, reporter: &Reporter) -> ExitCode {
    // Before this process is in another mount namespace.
    let guest = Guest::reach(&config.socket, &config.id).ok();
    let done = match &config.task {
        KeeperTask::Keep(shares) => keep(config, shares, guest, control, reporter),
        KeeperTask::Clear => {
            end(guest);
            clear(config)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            reporter.send(&MonitorEvent::Failed { message });
            ExitCode::FAILURE
        }
    }
}

/// Keeps the shares until the other end of `control` is closed, or the micro-VM ends.
fn keep(
    config: &KeeperConfig,
    shares: &[Share],
    guest: Option<Guest>,
    control: &UnixStream,
    reporter: &Reporter,
) -> Result<(), String> {
    let (handle, namespace) = find(config)?;
    let shares = JoinedShares::attach(shares, &namespace).map_err(|error| error.to_string())?;
    reporter.send(&MonitorEvent::Attached);
    let mut ends = [PollFd::new(control, PollFlags::IN), PollFd::new(&handle, PollFlags::IN)];
    let _ = retry_on_intr(|| poll(&mut ends, None));
    if !ends[1].revents().is_empty() {
        let message = "the micro-VM that the container shares has ended, and with it the container";
        reporter.send(&MonitorEvent::Failed { message: message.to_string() });
    }
    // The shares last: whoever finds them there knows that this did not come to its end.
    end(guest);
    drop(shares);
    Ok(())
}

/// Ends what the container still runs: nobody else does where its proxy failed or was killed. Most often it has ended, or the guest has.
fn end(guest: Option<Guest>) {
    let _ = guest.map(|guest| guest.signal(libc::SIGKILL.unsigned_abs(), true));
}

fn clear(config: &KeeperConfig) -> Result<(), String> {
    // Of the whole namespace: it has no /proc in which to look.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", config.monitor.pid)).map_err(|_| gone())?;
    let (_handle, namespace) = find(config)?;
    jail::clear_joined(&joined::place_of(&config.id), &mounts, &namespace).map_err(|error| error.to_string())
}

fn gone() -> String {
    "the micro-VM that the container is to share has ended".to_string()
}

/// A handle of the monitor, and its mount namespace.
fn find(config: &KeeperConfig) -> Result<(OwnedFd, OwnedFd), String> {
    let monitor = config.monitor;
    let handle = monitor.open().ok_or_else(gone)?.into_descriptor();
    let path = format!("/proc/{}/ns/mnt", monitor.pid);
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|_| gone())?;
    // The number may have become another's before the files were opened.
    if monitor.is_alive() { Ok((handle, namespace)) } else { Err(gone()) }
}
