//! The columns of ps(1) for what the guest's agent tells of a process.

use agent_protocol::agent::ProcessInfo;

use crate::error::shown;

/// Clock ticks in a second.
const TICKS: u64 = 100;
const DAY: u64 = 86_400;

/// One column.
#[derive(Debug)]
pub(super) struct Column {
    /// What `-o` calls it.
    names: &'static [&'static str],
    title: &'static str,
    /// Characters: negative where the text begins at the left.
    width: i8,
    value: fn(&ProcessInfo, u64) -> String,
}

/// Those that `-o` takes, and, without a name, those of the usual formats.
const COLUMNS: [Column; 25] = [
    Column { names: &["pid", "tgid"], title: "PID", width: 5, value: |p, _| p.pid.to_string() },
    Column { names: &["ppid"], title: "PPID", width: 5, value: |p, _| p.ppid.to_string() },
    Column { names: &["user", "euser", "uname"], title: "USER", width: -8, value: |p, _| user(p.uid) },
    Column { names: &[], title: "UID", width: -8, value: |p, _| user(p.uid) },
    Column { names: &["uid"], title: "UID", width: 5, value: |p, _| p.uid.to_string() },
    Column { names: &["euid"], title: "EUID", width: 5, value: |p, _| p.uid.to_string() },
    Column { names: &["c"], title: "C", width: 2, value: |p, now| (permille(p, now) / 10).min(99).to_string() },
    Column { names: &["pcpu", "%cpu"], title: "%CPU", width: 4, value: |p, now| tenths(permille(p, now)) },
    Column { names: &["pmem", "%mem"], title: "%MEM", width: 4, value: |p, _| tenths(p.memory_share.into()) },
    Column { names: &["vsz", "vsize"], title: "VSZ", width: 6, value: |p, _| (p.virtual_bytes / 1024).to_string() },
    Column { names: &["rss", "rssize"], title: "RSS", width: 5, value: |p, _| (p.resident_bytes / 1024).to_string() },
    Column { names: &["stime"], title: "STIME", width: -5, value: |p, now| start(p.started, now) },
    Column { names: &["start_time"], title: "START", width: -5, value: |p, now| start(p.started, now) },
    Column { names: &["etimes"], title: "ELAPSED", width: 7, value: |p, now| age(p, now).to_string() },
    Column { names: &["etime"], title: "ELAPSED", width: 11, value: |p, now| elapsed(age(p, now)) },
    Column { names: &["tname"], title: "TTY", width: -8, value: |p, _| shown(&p.terminal) },
    Column { names: &["tty", "tt"], title: "TT", width: -8, value: |p, _| shown(&p.terminal) },
    Column { names: &["stat"], title: "STAT", width: -4, value: |p, _| shown(&p.state) },
    Column { names: &["s", "state"], title: "S", width: -1, value: |p, _| shown(&p.state) },
    Column { names: &["time", "cputime"], title: "TIME", width: 8, value: |p, _| clock(p.cpu_ticks / TICKS) },
    Column { names: &["bsdtime"], title: "TIME", width: 6, value: |p, _| minutes(p.cpu_ticks / TICKS) },
    Column { names: &["comm", "ucomm"], title: "COMMAND", width: -15, value: |p, _| shown(&p.name) },
    Column { names: &["ucmd"], title: "CMD", width: -15, value: |p, _| shown(&p.name) },
    Column { names: &["args", "command"], title: "COMMAND", width: -27, value: |p, _| shown(&p.command) },
    Column { names: &["cmd"], title: "CMD", width: -27, value: |p, _| shown(&p.command) },
];

/// The one that `-o` calls so.
pub(super) fn named(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.names.contains(&name))
}

/// The column of `-f` that shows a user under the title of a number.
pub(super) fn owner() -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.names.is_empty())
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
    titles + &processes.iter().map(|process| line(&|one| (one.column.value)(process, now))).collect::<String>()
}

/// The container's users are not the host's.
fn user(uid: u32) -> String {
    if uid == 0 { "root".to_string() } else { uid.to_string() }
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
        assert!(owner().is_some());
    }
}
