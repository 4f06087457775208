//! `sandbox events`: what a container uses, again and again, and when the guest ran out of memory for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use agent_protocol::stats::Stats;
use serde::Serialize;

use super::list::print;
use super::{CommandError, ended_or, find, reach};
use crate::guest::Guest;
use crate::state::{Record, Status};

/// Prints one event of what is used now, or events until the container ends.
pub fn events(root: &Path, id: &str, once: bool, interval: Duration) -> Result<(), CommandError> {
    let (state, record) = find(root, id)?;
    if matches!(record.status(), Status::Stopped | Status::Creating) {
        return Err(CommandError::EventsNotRunning(record.id));
    }
    let guest = Arc::new(reach(&state, &record)?);
    if once {
        return stats(&guest, &record);
    }
    let Some(proxy) = record.proxy.open() else { return Err(CommandError::NotRunning) };
    let ooms = watch(guest.clone())?;
    loop {
        match ooms.recv_timeout(interval) {
            Ok(()) => {
                tell(&Event { kind: "oom", id: &record.id, data: None })?;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The container has ended, or its guest does not tell.
            Err(RecvTimeoutError::Disconnected) if proxy.wait(interval) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {}
        }
        match stats(&guest, &record) {
            Err(CommandError::NotRunning) => return Ok(()),
            result => result?,
        }
    }
}

/// Waits for the guest's OOM killer on a thread.
fn watch(guest: Arc<Guest>) -> Result<Receiver<()>, CommandError> {
    // No more than one ahead: a guest may answer as often as it likes.
    let (sender, ooms) = mpsc::sync_channel(1);
    let wait = move || {
        let mut seen = 0;
        while let Ok(answer) = guest.wait_oom(seen) {
            if answer.ended || answer.count <= seen || sender.send(()).is_err() {
                return;
            }
            seen = answer.count;
        }
    };
    let spawned = thread::Builder::new().name("oom".to_string()).spawn(wait);
    spawned.map(|_| ooms).map_err(CommandError::io("wait for the guest's events"))
}

fn stats(guest: &Guest, record: &Record) -> Result<(), CommandError> {
    let text = guest.stats().map_err(|error| ended_or(record, error.into()))?;
    // Only what it should be is shown, whatever the guest sent.
    let stats: Stats = serde_json::from_slice(&text).map_err(|error| CommandError::Stats(error.to_string()))?;
    tell(&Event { kind: "stats", id: &record.id, data: Some(&stats) })
}

/// One line. Its fields come in the order in which runc has them: scripts look at the text.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

fn tell(event: &Event<'_>) -> Result<(), CommandError> {
    print(&format!("{}\n", serde_json::to_string(event).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_fields() {
        let event = Event { kind: "oom", id: "c", data: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"c"}"#);
        let event = Event { data: Some(&Stats::default()), ..event };
        assert!(serde_json::to_string(&event).unwrap().starts_with(r#"{"type":"oom","id":"c","data":{"#));
    }
}
