//! The processes of a container, as ps(1) would show them. Names and command lines are the container's own words.

use std::fs::{self, File};
use std::io::Read;

use agent_protocol::agent::ProcessInfo;
use rustix::process::Pid;

use super::{Container, Error, step};
use crate::rpc::now_ns;

/// A reply must stay below the 4 MiB that a message may have.
const MOST: usize = 2048;

/// Longer command lines are cut.
const MOST_COMMAND: u64 = 1024;

/// Bytes in a page.
const PAGE: u64 = 4096;

/// Ticks of a second in /proc.
const TICKS: u64 = 100;

/// All of them, by pid.
pub fn list(container: &Container) -> Result<Vec<ProcessInfo>, Error> {
    if container.first.has_exited() {
        return Ok(Vec::new());
    }
    let mut pids =
        container.cgroup.processes(MOST).map_err(step::<std::io::Error>("list the container's processes"))?;
    pids.sort_unstable_by_key(|pid| pid.as_raw_pid());
    pids.truncate(MOST);
    let execs = container.execs.running();
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec.max(0) as u64;
    let booted = wall.saturating_sub(now_ns() / 1_000_000_000);
    let system = rustix::system::sysinfo();
    let memory = (system.totalram as u64).saturating_mul(system.mem_unit.into());
    let info = |pid: Pid| {
        let mut info = info(pid, booted)?;
        info.memory_share = info.resident_bytes.saturating_mul(1000).checked_div(memory).unwrap_or(0).min(1000) as u32;
        info.first = pid == container.first.pid();
        info.exec_id = execs.iter().find(|(_, p)| p.pid() == pid).map(|(id, _)| id.clone()).unwrap_or_default();
        Some(info)
    };
    // One that has ended meanwhile is left out.
    Ok(pids.into_iter().filter_map(info).collect())
}

fn info(pid: Pid, booted: u64) -> Option<ProcessInfo> {
    let pid = pid.as_raw_pid();
    let stat = Stat::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))?;
    let status = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).ok()?).into_owned();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut command = Vec::new();
    let _ = File::open(format!("/proc/{pid}/cmdline")).ok()?.take(MOST_COMMAND).read_to_end(&mut command);
    Some(ProcessInfo {
        pid,
        ppid: stat.ppid,
        uid: uids.split_ascii_whitespace().nth(1)?.parse().ok()?,
        started: booted.saturating_add(stat.started / TICKS),
        cpu_ticks: stat.ticks,
        terminal: terminal(stat.terminal),
        command: command_line(&command, &stat.name),
        state: stat.state,
        name: stat.name,
        virtual_bytes: stat.virtual_bytes,
        resident_bytes: stat.resident_bytes,
        pgid: stat.pgid,
        sid: stat.sid,
        tpgid: stat.tpgid,
        flags: stat.flags,
        priority: stat.priority,
        nice: stat.nice,
        threads: stat.threads,
        processor: stat.processor,
        ..Default::default()
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: String,
    ppid: i32,
    pgid: i32,
    sid: i32,
    terminal: u32,
    tpgid: i32,
    flags: u32,
    ticks: u64,
    priority: i32,
    nice: i32,
    threads: u32,
    started: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
    processor: u32,
}

impl Stat {
    /// The name may contain anything, parentheses and spaces too.
    fn parse(text: &str) -> Option<Stat> {
        let (start, rest) = text.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let signed = |index: usize| fields.get(index)?.parse::<i32>().ok();
        Some(Stat {
            name: name.to_owned(),
            state: (*fields.first()?).to_owned(),
            ppid: signed(1)?,
            pgid: signed(2)?,
            sid: signed(3)?,
            terminal: signed(4)? as u32,
            tpgid: signed(5)?,
            flags: number(6)? as u32,
            ticks: number(11)?.saturating_add(number(12)?),
            priority: signed(15)?,
            nice: signed(16)?,
            threads: number(17)? as u32,
            started: number(19)?,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)?.saturating_mul(PAGE),
            processor: number(36)? as u32,
        })
    }
}

/// Major and minor number lie in each other in this field.
fn terminal(device: u32) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match (major, minor) {
        (4, 0..64) => format!("tty{minor}"),
        (5, 1) => "console".to_owned(),
        (136..144, _) => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".to_owned(),
    }
}

fn command_line(arguments: &[u8], name: &str) -> String {
    let end = arguments.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match arguments.get(..end) {
        Some(arguments) if !arguments.is_empty() => String::from_utf8_lossy(arguments).replace('\0', " "),
        _ => format!("[{name}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let text = "42 (a) b (c)) S 7 41 40 34817 39 4194304 1 0 0 0 5 6 0 0 25 5 2 0 1234 1000 1 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.ppid, stat.ticks, stat.started), ("a) b (c)", 7, 11, 1234));
        assert_eq!((stat.state.as_str(), stat.virtual_bytes, stat.resident_bytes), ("S", 1000, PAGE));
        assert_eq!((stat.pgid, stat.sid, stat.tpgid, stat.flags), (41, 40, 39, 4_194_304));
        assert_eq!((stat.priority, stat.nice, stat.threads, stat.processor), (25, 5, 2, 3));
        assert_eq!(terminal(stat.terminal), "pts/1");
        assert!(Stat::parse("").is_none() && Stat::parse("1 (x) S 1").is_none());
        let me = info(Pid::from_raw(std::process::id() as i32).unwrap(), 1000).unwrap();
        assert!(me.started >= 1000 && !me.command.is_empty() && me.ppid > 0);
    }

    #[test]
    fn terminals_and_commands_are_named() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(5 << 8 | 1), "console");
        assert_eq!(command_line(b"sh\0-c\0true\0", "sh"), "sh -c true");
        assert_eq!(command_line(b"", "kworker"), "[kworker]");
        assert_eq!(command_line(b"\0\0", "x"), "[x]");
    }
}
