//! The columns of ps(1) for what the guest's agent tells of a process.

use std::cmp::Ordering;

use agent_protocol::agent::ProcessInfo;

use crate::error::shown;

/// Clock ticks in a second.
const TICKS: u64 = 100;
const DAY: u64 = 86_400;

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    /// What `-o` and `--sort` call it.
    names: &'static [&'static str],
    title: &'static str,
    /// Characters: negative where the text begins at the left.
    width: i8,
    value: Value,
}

/// What a column shows, which says what it is sorted by.
#[derive(Debug)]
enum Value {
    Number(fn(&ProcessInfo) -> i64),
    Text(fn(&ProcessInfo) -> String),
    /// A number, or seconds since the epoch, and how it is shown now.
    Made(fn(&ProcessInfo, u64) -> u64, fn(u64, u64) -> String),
}

use Value::{Made, Number, Text};

/// All of them. `addr_sz` is two of `-l`, whose titles stand closer together than their values.
const COLUMNS: [Column; 38] = [
    Column { names: &["pid", "tgid"], title: "PID", width: 5, value: Number(|p| p.pid.into()) },
    Column { names: &["ppid"], title: "PPID", width: 5, value: Number(|p| p.ppid.into()) },
    Column { names: &["pgid", "pgrp"], title: "PGID", width: 5, value: Number(|p| p.pgid.into()) },
    Column { names: &["sid", "sess", "session"], title: "SID", width: 5, value: Number(|p| p.sid.into()) },
    Column { names: &["tpgid"], title: "TPGID", width: 5, value: Number(|p| p.tpgid.into()) },
    Column { names: &["user", "euser", "uname"], title: "USER", width: -8, value: Text(|p| user(p.uid)) },
    Column { names: &["uid_hack"], title: "UID", width: -8, value: Text(|p| user(p.uid)) },
    Column { names: &["uid"], title: "UID", width: 5, value: Number(|p| p.uid.into()) },
    Column { names: &["euid"], title: "EUID", width: 5, value: Number(|p| p.uid.into()) },
    Column { names: &["f", "flag", "flags"], title: "F", width: 1, value: Number(|p| (p.flags >> 6 & 7).into()) },
    Column { names: &["c"], title: "C", width: 2, value: Made(permille, |share, _| (share / 10).min(99).to_string()) },
    Column { names: &["pcpu", "%cpu"], title: "%CPU", width: 4, value: Made(permille, |share, _| tenths(share)) },
    Column {
        names: &["pmem", "%mem"],
        title: "%MEM",
        width: 4,
        value: Made(|p, _| p.memory_share.into(), |share, _| tenths(share)),
    },
    Column { names: &["pri"], title: "PRI", width: 3, value: Number(|p| 39 - i64::from(p.priority)) },
    Column { names: &["opri"], title: "PRI", width: 3, value: Number(|p| 60 + i64::from(p.priority)) },
    Column { names: &["priority"], title: "PRI", width: 3, value: Number(|p| p.priority.into()) },
    Column { names: &["ni", "nice"], title: "NI", width: 3, value: Number(|p| p.nice.into()) },
    Column { names: &["nlwp", "thcount"], title: "NLWP", width: 4, value: Number(|p| p.threads.into()) },
    Column { names: &["psr"], title: "PSR", width: 3, value: Number(|p| p.processor.into()) },
    Column { names: &["sz"], title: "SZ", width: 5, value: Made(pages, |pages, _| pages.to_string()) },
    Column { names: &["addr_sz"], title: "ADDR SZ", width: 7, value: Made(pages, |pages, _| format!("- {pages:>5}")) },
    Column {
        names: &["vsz", "vsize"],
        title: "VSZ",
        width: 6,
        value: Made(|p, _| p.virtual_bytes / 1024, |size, _| size.to_string()),
    },
    Column {
        names: &["rss", "rssize", "rsz"],
        title: "RSS",
        width: 5,
        value: Made(|p, _| p.resident_bytes / 1024, |size, _| size.to_string()),
    },
    // The guest's kernel has no names for where a process waits.
    Column { names: &["wchan"], title: "WCHAN", width: -6, value: Text(|_| "-".to_string()) },
    Column { names: &["stime"], title: "STIME", width: -5, value: Made(|p, _| p.started, start) },
    Column { names: &["start_time"], title: "START", width: -5, value: Made(|p, _| p.started, start) },
    Column { names: &["etimes"], title: "ELAPSED", width: 7, value: Made(age, |age, _| age.to_string()) },
    Column { names: &["etime"], title: "ELAPSED", width: 11, value: Made(age, |age, _| elapsed(age)) },
    Column { names: &["tname"], title: "TTY", width: -8, value: Text(|p| shown(&p.terminal)) },
    Column { names: &["tty", "tt"], title: "TT", width: -8, value: Text(|p| shown(&p.terminal)) },
    Column { names: &["stat"], title: "STAT", width: -4, value: Text(state) },
    Column { names: &["s", "state"], title: "S", width: -1, value: Text(|p| shown(&p.state)) },
    Column {
        names: &["time", "cputime"],
        title: "TIME",
        width: 8,
        value: Made(|p, _| p.cpu_ticks, |ticks, _| clock(ticks / TICKS)),
    },
    Column {
        names: &["bsdtime"],
        title: "TIME",
        width: 6,
        value: Made(|p, _| p.cpu_ticks, |ticks, _| minutes(ticks / TICKS)),
    },
    Column { names: &["comm", "ucomm"], title: "COMMAND", width: -15, value: Text(|p| shown(&p.name)) },
    Column { names: &["ucmd"], title: "CMD", width: -15, value: Text(|p| shown(&p.name)) },
    Column { names: &["args", "command"], title: "COMMAND", width: -27, value: Text(|p| shown(&p.command)) },
    Column { names: &["cmd"], title: "CMD", width: -27, value: Text(|p| shown(&p.command)) },
];

/// The one that `-o` calls so.
pub(super) fn named(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.names.contains(&name))
}

impl Column {
    fn shown(&self, process: &ProcessInfo, now: u64) -> String {
        match self.value {
            Number(value) => value(process).to_string(),
            Text(value) => value(process),
            Made(value, show) => show(value(process, now), now),
        }
    }

    /// Which of two comes first.
    pub(super) fn order(&self, one: &ProcessInfo, other: &ProcessInfo, now: u64) -> Ordering {
        match self.value {
            Number(value) => value(one).cmp(&value(other)),
            Text(value) => value(one).cmp(&value(other)),
            Made(value, _) => value(one, now).cmp(&value(other, now)),
        }
    }
}

/// A column, with another title maybe.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub column: &'static Column,
    pub title: Option<String>,
}

impl Shown {
    fn title(&self) -> &str {
        self.title.as_deref().unwrap_or(self.column.title)
    }

    fn cell(&self, text: &str, last: bool) -> String {
        let wide = self.title().len().max(self.column.width.unsigned_abs().into());
        match self.column.width < 0 {
            true if last => text.to_string(),
            true => format!("{text:<wide$}"),
            false => format!("{text:>wide$}"),
        }
    }
}

/// The table, with its line of titles.
pub(super) fn table(columns: &[Shown], processes: &[ProcessInfo], now: u64) -> String {
    let line = |text: &dyn Fn(&Shown) -> String| {
        let cells = columns.iter().enumerate().map(|(i, one)| one.cell(&text(one), i + 1 == columns.len()));
        cells.collect::<Vec<_>>().join(" ") + "\n"
    };
    let titles = line(&|one| one.title().to_string());
    titles + &processes.iter().map(|process| line(&|one| one.column.shown(process, now))).collect::<String>()
}

/// The container's users are not the host's.
fn user(uid: u32) -> String {
    if uid == 0 { "root".to_string() } else { uid.to_string() }
}

/// The letter of the state, and what ps(1) adds to it.
fn state(process: &ProcessInfo) -> String {
    let marks = [
        (process.nice < 0, '<'),
        (process.nice > 0, 'N'),
        (process.sid == process.pid, 's'),
        (process.threads > 1, 'l'),
        (process.pgid == process.tpgid, '+'),
    ];
    let mut text = shown(&process.state);
    text.extend(marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark));
    text
}

/// Of 4 KiB each.
fn pages(process: &ProcessInfo, _: u64) -> u64 {
    process.virtual_bytes / 4096
}

fn age(process: &ProcessInfo, now: u64) -> u64 {
    now.saturating_sub(process.started)
}

/// Of one processor, since the start.
fn permille(process: &ProcessInfo, now: u64) -> u64 {
    (process.cpu_ticks / TICKS).saturating_mul(1000) / age(process, now).max(1)
}

fn tenths(permille: u64) -> String {
    if permille < 1000 { format!("{}.{}", permille / 10, permille % 10) } else { (permille / 10).to_string() }
}

/// The time of day (UTC), or the days since for one that is older than a day.
fn start(started: u64, now: u64) -> String {
    match now.saturating_sub(started) / DAY {
        0 => format!("{:02}:{:02}", started / 3600 % 24, started / 60 % 60),
        days => format!("{:>5}", format!("-{days}d")),
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn minutes(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn elapsed(seconds: u64) -> String {
    match (seconds / DAY, seconds % DAY) {
        (0, seconds @ 0..3600) => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        (0, seconds) => clock(seconds),
        (days, seconds) => format!("{days}-{}", clock(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares() {
        assert_eq!(start(0, 3 * DAY), "  -3d");
        assert_eq!(start(1_000_000, 1_000_610), "13:46");
        assert_eq!((tenths(3), tenths(1234)), ("0.3".to_string(), "123".to_string()));
        assert_eq!((minutes(89), clock(7322)), ("1:29".to_string(), "02:02:02".to_string()));
        assert_eq!([59, 3600, DAY + 1].map(elapsed), ["00:59", "01:00:00", "1-00:00:01"]);
    }

    #[test]
    fn a_name_is_one_columns() {
        for name in COLUMNS.iter().flat_map(|column| column.names) {
            assert_eq!(COLUMNS.iter().filter(|column| column.names.contains(name)).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_state_has_the_marks_of_ps() {
        let first = ProcessInfo { state: "S".to_string(), pid: 7, tpgid: -1, ..Default::default() };
        assert_eq!(state(&first), "S");
        let leader = ProcessInfo { sid: 7, pgid: 7, tpgid: 7, threads: 2, nice: -5, ..first.clone() };
        assert_eq!(state(&leader), "S<sl+");
        assert_eq!(state(&ProcessInfo { nice: 1, threads: 1, ..first }), "SN");
    }
}
