//! `sandbox ps`: a container's processes, as pids of the host or as the guest knows them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_protocol::agent::ProcessInfo;

use super::list::{Format, print};
use super::{CommandError, ended_or, find, reach};
use crate::error::shown;
use crate::state::{Status, execs};

/// The columns of `ps -ef`.
const HEADER: &str = "UID        PID  PPID  C STIME TTY          TIME CMD\n";
/// Clock ticks in a second.
const TICKS: u64 = 100;
const DAY: u64 = 86_400;

/// Prints the processes.
pub fn ps(root: &Path, id: &str, format: Format) -> Result<(), CommandError> {
    let (state, record) = find(root, id)?;
    let runs = record.status() != Status::Stopped;
    match format {
        Format::Json if !runs => print("null\n"),
        // The host has one process for each that was asked for; others are the guest's alone.
        Format::Json => {
            let execs = execs::list(state.directory()).into_iter().map(|process| process.pid);
            let pids: Vec<i32> = std::iter::once(record.proxy.pid).chain(execs).collect();
            print(&(serde_json::to_string(&pids).unwrap_or_default() + "\n"))
        }
        Format::Table if !runs => print(HEADER),
        Format::Table => {
            let guest = reach(&state, &record)?;
            let processes = guest.processes().map_err(|error| ended_or(&record, error.into()))?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            print(&(HEADER.to_string() + &processes.iter().map(|process| row(process, now)).collect::<String>()))
        }
    }
}

fn row(process: &ProcessInfo, now: u64) -> String {
    let seconds = process.cpu_ticks / TICKS;
    let age = now.saturating_sub(process.started).max(1);
    let share = (seconds * 100 / age).min(99);
    format!(
        "{:<8} {:>5} {:>5} {:>2} {} {:<8} {:02}:{:02}:{:02} {}\n",
        if process.uid == 0 { "root".to_string() } else { process.uid.to_string() },
        process.pid,
        process.ppid,
        share,
        start(process.started, now),
        shown(&process.terminal),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        shown(&process.command)
    )
}

/// The time of day (UTC), or the days since for one that is older than a day.
fn start(started: u64, now: u64) -> String {
    match now.saturating_sub(started) / DAY {
        0 => format!("{:02}:{:02}", started / 3600 % 24, started / 60 % 60),
        days => format!("{:>5}", format!("-{days}d")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_the_header() {
        let process = ProcessInfo {
            pid: 7,
            ppid: 1,
            started: 1_000_000,
            cpu_ticks: 6_100,
            terminal: "?".to_string(),
            command: "sleep\u{1b}[2J 100".to_string(),
            ..Default::default()
        };
        let row = row(&process, 1_000_610);
        assert_eq!(row, "root         7     1 10 13:46 ?        00:01:01 sleep [2J 100\n");
        assert_eq!(row.find("sleep"), HEADER.find("CMD"));
        assert_eq!(start(0, 3 * DAY), "  -3d");
    }
}
