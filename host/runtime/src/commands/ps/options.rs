//! Options of ps(1), as far as they say which columns are printed. Which processes are is settled: all of the container's.

use super::columns::{Shown, named, owner};
use crate::commands::CommandError;

/// What stands in a format without an option for it: `-f` has its own column for the user.
const OWNER: &str = "";

/// `-f`.
const FULL: [&str; 8] = [OWNER, "pid", "ppid", "c", "stime", "tname", "time", "cmd"];
/// `-f x`.
const FULL_OF_BSD: [&str; 9] = [OWNER, "pid", "ppid", "c", "stime", "tname", "stat", "bsdtime", "cmd"];
/// `u`.
const BY_USER: [&str; 11] =
    ["user", "pid", "pcpu", "pmem", "vsz", "rss", "tname", "stat", "start_time", "bsdtime", "args"];
/// `x`.
const BSD: [&str; 5] = ["pid", "tname", "stat", "bsdtime", "args"];
/// `-e`.
const BASIC: [&str; 4] = ["pid", "tname", "time", "ucmd"];

#[derive(Default)]
struct Given {
    full: bool,
    by_user: bool,
    bsd: bool,
    with_terminal: bool,
    columns: Vec<Shown>,
}

/// The columns that the options ask for; those of `-ef` without any.
pub(super) fn columns(options: &[String]) -> Result<Vec<Shown>, CommandError> {
    let mut given = Given { full: options.is_empty(), ..Default::default() };
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let refuse = || CommandError::PsOption(option.clone());
        let (bsd, letters) = option.strip_prefix('-').map_or((true, option.as_str()), |letters| (false, letters));
        if letters.is_empty() {
            return Err(refuse());
        }
        for (index, letter) in letters.char_indices() {
            match (bsd, letter) {
                (false, 'e' | 'A') | (_, 'w') => {}
                (false, 'f') => given.full = true,
                (_, 'x') => given.bsd = true,
                (true, 'a') => given.bsd = true,
                (false, 'a') => given.with_terminal = true,
                (true, 'u') => given.by_user = true,
                (_, 'o') => {
                    let attached = letters.get(index + 1..).unwrap_or_default();
                    let list = if attached.is_empty() { rest.next().ok_or_else(refuse)? } else { attached };
                    given.columns.extend(list_of(list)?);
                    break;
                }
                _ => return Err(refuse()),
            }
        }
    }
    given.chosen()
}

impl Given {
    fn chosen(self) -> Result<Vec<Shown>, CommandError> {
        if self.with_terminal && !self.bsd {
            // By itself it leaves processes out.
            return Err(CommandError::PsOption("-a".to_string()));
        }
        let names: &[&str] = match (self.columns.is_empty(), self.full, self.by_user, self.bsd) {
            (false, false, false, _) => return Ok(self.columns),
            (true, true, false, false) => &FULL,
            (true, true, false, true) => &FULL_OF_BSD,
            (true, false, true, _) => &BY_USER,
            (true, false, false, true) => &BSD,
            (true, false, false, false) => &BASIC,
            _ => return Err(CommandError::PsFormats),
        };
        let column = |name: &&str| if *name == OWNER { owner() } else { named(name) };
        Ok(names.iter().filter_map(column).map(|column| Shown { column, title: None }).collect())
    }
}

/// `pid,ppid,args=TITLE`: a title goes on to the end.
fn list_of(list: &str) -> Result<Vec<Shown>, CommandError> {
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

    fn titles(options: &str) -> String {
        let options: Vec<String> = options.split_ascii_whitespace().map(str::to_string).collect();
        columns(&options)
            .map_or_else(|error| error.to_string(), |columns| table(&columns, &[], 0).trim_end().to_string())
    }

    #[test]
    fn titles_are_those_of_ps() {
        for options in ["", "-ef", "-f", "-e -f -w", "-A -f"] {
            assert_eq!(titles(options), "UID        PID  PPID  C STIME TTY          TIME CMD", "{options}");
        }
        for options in ["-e -x", "ax", "x", "-ax", "axww"] {
            assert_eq!(titles(options), "  PID TTY      STAT   TIME COMMAND", "{options}");
        }
        for options in ["aux", "-e u"] {
            let expected = "USER       PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND";
            assert_eq!(titles(options), expected, "{options}");
        }
        assert_eq!(titles("-e"), "  PID TTY          TIME CMD");
        assert_eq!(titles("-ef x"), "UID        PID  PPID  C STIME TTY      STAT   TIME CMD");
        assert_eq!(titles("-eo pid,ppid,user,args"), "  PID  PPID USER     COMMAND");
        assert_eq!(titles("-e -opid=X -o etime,s"), "    X     ELAPSED S");
        assert_eq!(titles("o ppid="), "");
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        for options in ["-l", "-d", "-a", "-p 1", "-u 0", "--forest", "e", "f", "-", "-o", "-F", "-h"] {
            let option = options.split(' ').next().unwrap_or_default();
            assert!(titles(options).contains(&format!("{option:?}")), "{options}: {}", titles(options));
        }
        for options in ["-f u", "-f -o pid", "u -o pid"] {
            assert!(titles(options).contains("conflicting"), "{options}");
        }
        for (options, column) in [("-o pid,wchan", "wchan"), ("-o =x", "=x")] {
            assert!(titles(options).contains(&format!("{column:?}")), "{options}: {}", titles(options));
        }
    }

    #[test]
    fn a_row_fits_its_titles() {
        let process = ProcessInfo {
            pid: 7,
            ppid: 1,
            started: 1_000_000,
            cpu_ticks: 6_100,
            terminal: "?".to_string(),
            command: "sleep\u{1b}[2J 100".to_string(),
            state: "S".to_string(),
            resident_bytes: 4096,
            memory_share: 12,
            ..Default::default()
        };
        let row = |options: &str| {
            let options: Vec<String> = options.split_ascii_whitespace().map(str::to_string).collect();
            let text = table(&columns(&options).unwrap(), std::slice::from_ref(&process), 1_000_610);
            text.lines().nth(1).unwrap().to_string()
        };
        assert_eq!(row("-ef"), "root         7     1 10 13:46 ?        00:01:01 sleep [2J 100");
        assert_eq!(row("-ex"), "    7 ?        S      1:01 sleep [2J 100");
        assert_eq!(row("aux"), "root         7 10.0  1.2      0     4 ?        S    13:46   1:01 sleep [2J 100");
    }
}
