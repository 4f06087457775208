//! Options of ps(1): which columns are printed, and which of the container's processes.

use super::columns::{Shown, named};
use super::selection::Selection;
use crate::commands::CommandError;

/// `u`.
const BY_USER: [&str; 11] =
    ["user", "pid", "pcpu", "pmem", "vsz", "rss", "tname", "stat", "start_time", "bsdtime", "args"];
/// `l`.
const LONG_OF_BSD: [&str; 13] =
    ["f", "uid", "pid", "ppid", "priority", "ni", "vsz", "rss", "wchan", "stat", "tname", "bsdtime", "args"];
/// `j`.
const JOBS_OF_BSD: [&str; 10] = ["ppid", "pid", "pgid", "sid", "tname", "tpgid", "stat", "uid", "bsdtime", "args"];
/// `x`.
const BSD: [&str; 5] = ["pid", "tname", "stat", "bsdtime", "args"];

/// Options that are followed by a list of process ids, which may be attached to them.
const OF_PIDS: [&str; 3] = ["--pid", "--quick-pid", "--ppid"];

#[derive(Default)]
struct Given {
    /// Those of Unix, which add columns to each other.
    full: bool,
    extra_full: bool,
    long: bool,
    jobs: bool,
    without_flags: bool,
    /// `u`, `l` and `j`.
    formats_of_bsd: Vec<&'static [&'static str]>,
    bsd: bool,
    columns: Vec<Shown>,
    selection: Selection,
}

/// What the options ask for; without any it is what `-ef` asks for.
pub(super) fn chosen(options: &[String]) -> Result<(Vec<Shown>, Selection), CommandError> {
    let mut given = Given { full: options.is_empty(), ..Default::default() };
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        if option.starts_with("--") {
            given.long_option(option, &mut rest)?;
        } else if option.starts_with(|first: char| first.is_ascii_digit()) {
            given.selection.pids.extend(ids(option)?);
        } else {
            given.letters(option, &mut rest)?;
        }
    }
    // `-a` and `x` in one are `ax`, which are all.
    given.selection.all |= given.bsd && given.selection.with_terminal;
    Ok((given.shown()?, given.selection))
}

impl Given {
    fn letters<'a>(&mut self, option: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), CommandError> {
        let refuse = || CommandError::PsOption(option.to_string());
        let (dash, letters) = option.strip_prefix('-').map_or((false, option), |letters| (true, letters));
        if letters.is_empty() {
            return Err(refuse());
        }
        // With ps(1) too `-lx` and `-jx` are `lx` and `jx`.
        let unix = dash && !(letters.contains('x') && letters.contains(['l', 'j', 'u']));
        for (index, letter) in letters.char_indices() {
            let attached = letters.get(index + 1..).unwrap_or_default();
            let mut list = || match attached {
                "" => rest.next().map(String::as_str).ok_or_else(refuse),
                attached => Ok(attached),
            };
            match (unix, letter) {
                (true, 'e' | 'A') => self.selection.all = true,
                (_, 'w') => {}
                (true, 'f') => self.full = true,
                (true, 'F') => self.extra_full = true,
                (true, 'l') => self.long = true,
                (true, 'j') => self.jobs = true,
                (true, 'y') => self.without_flags = true,
                (true, 'a') => self.selection.with_terminal = true,
                (true, 'd') => self.selection.not_leading = true,
                (_, 'x') | (false, 'a') => self.bsd = true,
                (false, 'u') => self.formats_of_bsd.push(&BY_USER),
                (false, 'l') => self.formats_of_bsd.push(&LONG_OF_BSD),
                (false, 'j') => self.formats_of_bsd.push(&JOBS_OF_BSD),
                (_, 'o') => {
                    self.columns.extend(columns_of(list()?)?);
                    break;
                }
                (_, 'p') | (true, 'q') => {
                    self.selection.pids.extend(ids(list()?)?);
                    break;
                }
                _ => return Err(refuse()),
            }
        }
        Ok(())
    }

    /// One of two dashes, with its list after `=` or as the next word.
    fn long_option<'a>(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), CommandError> {
        let refuse = || CommandError::PsOption(option.to_string());
        let (name, attached) = option.split_once('=').map_or((option, None), |(name, list)| (name, Some(list)));
        let known = OF_PIDS.contains(&name) || matches!(name, "--sort" | "--format");
        let list = attached.or_else(|| known.then(|| rest.next()).flatten().map(String::as_str)).ok_or_else(refuse)?;
        match name {
            "--pid" | "--quick-pid" => self.selection.pids.extend(ids(list)?),
            "--ppid" => self.selection.parents.extend(ids(list)?),
            "--sort" => {
                for key in list.split(',') {
                    let name = key.trim_start_matches(['+', '-']);
                    let column = named(name).ok_or_else(|| CommandError::PsColumn(name.to_string()))?;
                    self.selection.order.push((column, key.starts_with('-')));
                }
            }
            "--format" => self.columns.extend(columns_of(list)?),
            _ => return Err(refuse()),
        }
        Ok(())
    }

    fn shown(&mut self) -> Result<Vec<Shown>, CommandError> {
        if self.without_flags && !self.long {
            return Err(CommandError::PsOption("-y".to_string()));
        }
        let unix = self.full || self.extra_full || self.long || self.jobs;
        let names = match (self.columns.is_empty(), unix, self.formats_of_bsd.as_slice()) {
            (false, false, []) => return Ok(std::mem::take(&mut self.columns)),
            (true, true, []) => self.of_unix(),
            (true, false, []) if self.bsd => BSD.to_vec(),
            (true, false, []) => self.of_unix(),
            (true, false, [one]) => one.to_vec(),
            _ => return Err(CommandError::PsFormats),
        };
        Ok(names.iter().filter_map(|name| named(name)).map(|column| Shown { column, title: None }).collect())
    }

    /// The columns of `-f`, `-F`, `-l` and `-j`, alone and together; `x` changes the last ones.
    fn of_unix(&self) -> Vec<&'static str> {
        let full = self.full || self.extra_full;
        let columns = [
            ("f", self.long && !self.without_flags),
            ("s", self.long),
            ("uid_hack", full),
            ("uid", self.long && !full),
            ("pid", true),
            ("ppid", self.long || full),
            ("pgid", self.jobs),
            ("sid", self.jobs),
            ("c", self.long || full),
            ("opri", self.long),
            ("ni", self.long),
            ("rss", self.without_flags),
            ("addr_sz", self.long && !self.without_flags),
            ("sz", self.without_flags || self.extra_full && !self.long),
            ("wchan", self.long),
            ("rss", self.extra_full && !self.without_flags),
            ("psr", self.extra_full),
            ("stime", full),
            ("tname", true),
            ("stat", self.bsd && !self.long),
            (if self.bsd { "bsdtime" } else { "time" }, true),
            ("cmd", full || self.bsd && self.long),
            ("args", self.bsd && !full && !self.long),
            ("ucmd", !self.bsd && !full),
        ];
        columns.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect()
    }
}

/// `1,2` or `1 2`: the guest's, as the table shows them.
fn ids(list: &str) -> Result<Vec<i32>, CommandError> {
    let refuse = || CommandError::PsIds(list.to_string());
    let one = |number: &str| number.parse().ok().filter(|id| *id > 0).ok_or_else(refuse);
    list.split([',', ' ']).filter(|number| !number.is_empty()).map(one).collect()
}

/// `pid,ppid,args=TITLE`: a title goes on to the end.
fn columns_of(list: &str) -> Result<Vec<Shown>, CommandError> {
    let (names, title) = list.split_once('=').map_or((list, None), |(names, title)| (names, Some(title.to_string())));
    let names = names.split([',', ' ']).filter(|name| !name.is_empty());
    let find = |name: &str| named(name).ok_or_else(|| CommandError::PsColumn(name.to_string()));
    let mut found: Vec<Shown> =
        names.map(|name| Ok(Shown { column: find(name)?, title: None })).collect::<Result<_, CommandError>>()?;
    match found.last_mut() {
        Some(last) => last.title = title,
        None => return Err(CommandError::PsColumn(list.to_string())),
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use agent_protocol::agent::ProcessInfo;

    use super::super::columns::table;
    use super::*;

    fn words(options: &str) -> Vec<String> {
        options.split_ascii_whitespace().map(str::to_string).collect()
    }

    fn titles(options: &str) -> String {
        let titles = |(columns, _): (Vec<Shown>, Selection)| table(&columns, &[], 0).trim_end().to_string();
        chosen(&words(options)).map_or_else(|error| error.to_string(), titles)
    }

    #[test]
    fn titles_are_those_of_ps() {
        for options in ["", "-ef", "-f", "-e -f -w", "-A -f"] {
            assert_eq!(titles(options), "UID        PID  PPID  C STIME TTY          TIME CMD", "{options}");
        }
        for options in ["-e -x", "ax", "x", "-ax", "axww"] {
            assert_eq!(titles(options), "  PID TTY      STAT   TIME COMMAND", "{options}");
        }
        for options in ["aux", "-e u", "-aux", "u -p 1", "u 1"] {
            let expected = "USER       PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND";
            assert_eq!(titles(options), expected, "{options}");
        }
        for (options, expected) in [
            ("-e", "  PID TTY          TIME CMD"),
            ("-ef x", "UID        PID  PPID  C STIME TTY      STAT   TIME CMD"),
            ("-eo pid,ppid,user,args", "  PID  PPID USER     COMMAND"),
            ("-e -opid=X -o etime,s", "    X     ELAPSED S"),
            ("--format pid,comm --sort=-pid", "  PID COMMAND"),
            ("o ppid=", ""),
            ("-l", "F S   UID   PID  PPID  C PRI  NI ADDR SZ WCHAN  TTY          TIME CMD"),
            ("-elf", "F S UID        PID  PPID  C PRI  NI ADDR SZ WCHAN  STIME TTY          TIME CMD"),
            ("-ly", "S   UID   PID  PPID  C PRI  NI   RSS    SZ WCHAN  TTY          TIME CMD"),
            ("-lyf", "S UID        PID  PPID  C PRI  NI   RSS    SZ WCHAN  STIME TTY          TIME CMD"),
            ("-l x", "F S   UID   PID  PPID  C PRI  NI ADDR SZ WCHAN  TTY        TIME CMD"),
            ("-j", "  PID  PGID   SID TTY          TIME CMD"),
            ("-j -f", "UID        PID  PPID  PGID   SID  C STIME TTY          TIME CMD"),
            ("-jl", "F S   UID   PID  PPID  PGID   SID  C PRI  NI ADDR SZ WCHAN  TTY          TIME CMD"),
            ("-j x", "  PID  PGID   SID TTY      STAT   TIME COMMAND"),
            ("-F", "UID        PID  PPID  C    SZ   RSS PSR STIME TTY          TIME CMD"),
            ("-lF", "F S UID        PID  PPID  C PRI  NI ADDR SZ WCHAN    RSS PSR STIME TTY          TIME CMD"),
            ("axl", "F   UID   PID  PPID PRI  NI    VSZ   RSS WCHAN  STAT TTY        TIME COMMAND"),
            ("-axj", " PPID   PID  PGID   SID TTY      TPGID STAT   UID   TIME COMMAND"),
        ] {
            assert_eq!(titles(options), expected, "{options}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for options in ["-y", "-u 0", "--forest", "--sort", "e", "f", "-", "-o", "-p", "-h", "--pid", "-L", "--pi=1"] {
            let option = options.split(' ').next().unwrap_or_default();
            assert!(titles(options).contains(&format!("{option:?}")), "{options}: {}", titles(options));
        }
        for options in ["-f u", "-f -o pid", "u -o pid", "l -f", "lj", "-l u", "-l -o pid"] {
            assert!(titles(options).contains("conflicting"), "{options}");
        }
        for (options, column) in [("-o pid,lstart", "lstart"), ("-o =x", "=x"), ("--sort pid,-lstart", "lstart")] {
            assert!(titles(options).contains(&format!("column {column:?}")), "{options}: {}", titles(options));
        }
        for (options, list) in [("-p 1,x", "1,x"), ("-p0", "0"), ("--ppid=-1", "-1"), ("12x", "12x")] {
            assert!(titles(options).contains(&format!("{list:?}")), "{options}: {}", titles(options));
        }
    }

    #[test]
    fn processes_are_chosen_and_sorted() {
        let process = |pid, ppid, sid, terminal: &str, rss: u64| ProcessInfo {
            pid,
            ppid,
            sid,
            terminal: terminal.to_string(),
            resident_bytes: rss << 10,
            ..Default::default()
        };
        let all = vec![process(7, 0, 7, "?", 30), process(8, 7, 7, "?", 10), process(12, 7, 7, "pts/0", 10)];
        for (options, expected) in [
            ("", vec![7, 8, 12]),
            ("-l", vec![7, 8, 12]),
            ("-d", vec![8, 12]),
            ("-a", vec![12]),
            ("-ax", vec![7, 8, 12]),
            ("-a x", vec![7, 8, 12]),
            ("-p 8", vec![8]),
            ("-fp 8,7", vec![7, 8]),
            ("-q8 12", vec![8, 12]),
            ("p 9", vec![]),
            ("u 12", vec![12]),
            ("--pid 7 --ppid=7 -e", vec![7, 8, 12]),
            ("--ppid 7", vec![8, 12]),
            ("-ef --sort rss", vec![8, 12, 7]),
            ("aux --sort=-rss,-pid", vec![7, 12, 8]),
        ] {
            let (_, selection) = chosen(&words(options)).unwrap();
            let pids: Vec<i32> = selection.of(all.clone(), 0).iter().map(|process| process.pid).collect();
            assert_eq!(pids, expected, "{options}");
        }
    }

    #[test]
    fn a_row_fits_its_titles() {
        let process = ProcessInfo {
            pid: 7,
            ppid: 1,
            pgid: 7,
            sid: 7,
            tpgid: -1,
            started: 1_000_000,
            cpu_ticks: 6_100,
            terminal: "?".to_string(),
            command: "sleep\u{1b}[2J 100".to_string(),
            name: "sleep".to_string(),
            state: "S".to_string(),
            flags: 0x0040_0100,
            priority: 20,
            virtual_bytes: 8 << 20,
            resident_bytes: 4096,
            memory_share: 12,
            ..Default::default()
        };
        let row = |options: &str| {
            let (columns, _) = chosen(&words(options)).unwrap();
            let text = table(&columns, std::slice::from_ref(&process), 1_000_610);
            text.lines().nth(1).unwrap().to_string()
        };
        assert_eq!(row("-ef"), "root         7     1 10 13:46 ?        00:01:01 sleep [2J 100");
        assert_eq!(row("-ex"), "    7 ?        Ss     1:01 sleep [2J 100");
        assert_eq!(row("aux"), "root         7 10.0  1.2   8192     4 ?        Ss   13:46   1:01 sleep [2J 100");
        assert_eq!(row("-l"), "4 S     0     7     1 10  80   0 -  2048 -      ?        00:01:01 sleep");
        assert_eq!(row("j"), "    1     7     7     7 ?           -1 Ss       0   1:01 sleep [2J 100");
    }
}
