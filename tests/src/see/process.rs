//! The process: its identity, limits, signals, namespaces, terminal and descriptors.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::{Report, content, failure, sys};

/// Inodes of the namespaces that a kernel makes at boot are at the start of their range; later ones are far from it.
const FIRST_NAMESPACES: u64 = 0xf000_0000 + 16;

pub(super) fn see(report: &mut Report) {
    status(report);
    limits(report);
    namespaces(report);
    place(report);
    command(report);
    descriptors(report);
    kernel_settings(report);
}

fn status(report: &mut Report) {
    let wanted = [
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Speculation_Store_Bypass",
        "SigBlk",
        "SigIgn",
        "ShdPnd",
        "SigPnd",
        "CoreDumping",
        "THP_enabled",
        "Cpus_allowed_list",
        "Mems_allowed_list",
        "Threads",
        "TracerPid",
    ];
    for line in content("/proc/self/status").lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if wanted.contains(&key) {
            report.add(format!("status.{key}"), value.split_whitespace().collect::<Vec<_>>().join(" "));
        } else if key == "NSpid" {
            report.add("status.NSpid depth", value.split_whitespace().count());
        }
    }
}

fn limits(report: &mut Report) {
    for line in content("/proc/self/limits").lines().skip(1) {
        let (name, values) = line.split_at(line.len().min(26));
        let values: Vec<&str> = values.split_whitespace().take(2).collect();
        report.add(format!("limit.{}", name.trim()), values.join(" "));
    }
}

fn namespaces(report: &mut Report) {
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"] {
        let relation = match fs::metadata(format!("/proc/self/ns/{name}")) {
            Ok(stat) if boot_namespace(stat.ino()) => "host".to_owned(),
            Ok(_) => "own".to_owned(),
            Err(error) => failure(&error),
        };
        report.add(format!("namespace.{name}"), relation);
    }
    for name in ["uid_map", "gid_map", "projid_map", "setgroups", "timens_offsets"] {
        let text = content(format!("/proc/self/{name}"));
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        report.add(format!("namespace.{name}"), words.join("; "));
    }
}

/// The kernel gives fixed numbers to six of the first namespaces, and its first dynamic numbers to the other two.
fn boot_namespace(inode: u64) -> bool {
    (0xefff_fff0..FIRST_NAMESPACES).contains(&inode)
}

fn place(report: &mut Report) {
    let directory = std::env::current_dir();
    report.add("cwd", directory.map_or_else(|error| failure(&error), |path| path.display().to_string()));
    report.add("root", fs::read_link("/proc/self/root").map_or_else(|e| failure(&e), |p| p.display().to_string()));
    let pid = std::process::id();
    report.add("process.pid", if pid == 1 { "1".to_owned() } else { "another".to_owned() });
    let parent = std::os::unix::process::parent_id();
    report.add("process.parent", if parent == 0 { "outside" } else { "seen" });
    let stat = content("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let own = pid.to_string();
    let relation = |index: usize| match fields.get(index) {
        Some(&value) if value == own => "own",
        Some(&"0") => "none",
        Some(&"-1") => "no terminal",
        Some(_) => "another's",
        None => "?",
    };
    report.add("process.group", relation(2));
    report.add("process.session", relation(3));
    report.add("process.terminal", if fields.get(4) == Some(&"0") { "none" } else { "one" });
    report.add("process.group of the terminal", relation(5));
}

fn command(report: &mut Report) {
    report.file("process.comm", "/proc/self/comm");
    report
        .add("process.exe", fs::read_link("/proc/self/exe").map_or_else(|e| failure(&e), |p| p.display().to_string()));
    report.add("process.cmdline", content("/proc/self/cmdline").replace('\0', " "));
    let environment = content("/proc/self/environ");
    let variables: Vec<&str> = environment.split_terminator('\0').collect();
    report.add("env.count", variables.len());
    let mut order = Vec::new();
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap_or((variable, "(no value)"));
        order.push(name.to_owned());
        // A very long one is told by its length.
        if value.len() > 1000 {
            report.add(format!("env:{name}"), format!("{} bytes", value.len()));
        } else {
            report.add(format!("env:{name}"), value);
        }
    }
    report.add("env.order", order.join(" "));
}

fn descriptors(report: &mut Report) {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The directory that was read is closed again by now.
    numbers.retain(|number| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    numbers.sort_unstable();
    let list: Vec<String> = numbers.iter().map(i32::to_string).collect();
    report.add("fd.open", list.join(" "));
    for number in 0..3 {
        let kind = match fs::metadata(format!("/proc/self/fd/{number}")) {
            Ok(stat) if stat.file_type().is_fifo() => "pipe".to_owned(),
            Ok(stat) if stat.file_type().is_socket() => "socket".to_owned(),
            Ok(stat) if stat.file_type().is_char_device() => {
                let major = rustix::fs::major(stat.rdev());
                if major == 1 {
                    "null".to_owned()
                } else {
                    format!("device of {major} mode {:o} uid {} gid {}", stat.mode() & 0o7777, stat.uid(), stat.gid())
                }
            }
            Ok(_) => "file".to_owned(),
            Err(error) => failure(&error),
        };
        report.add(format!("fd.{number}"), kind);
        terminal(report, number);
        let info = content(format!("/proc/self/fdinfo/{number}"));
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("").trim().to_owned();
        report.add(format!("fd.{number}.flags"), flags);
    }
}

fn terminal(report: &mut Report, number: i32) {
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let Some(&descriptor) = standard.get(number as usize) else { return };
    let descriptor: BorrowedFd<'_> = descriptor;
    report.add(format!("fd.{number}.terminal"), rustix::termios::isatty(descriptor));
    if let Ok(size) = rustix::termios::tcgetwinsize(descriptor) {
        report.add(format!("fd.{number}.size"), format!("{} rows, {} columns", size.ws_row, size.ws_col));
        let name = rustix::termios::ttyname(descriptor, Vec::new());
        report.add(
            format!("fd.{number}.name"),
            name.map_or("none".to_owned(), |name| name.to_string_lossy().into_owned()),
        );
    }
    if let Ok(settings) = rustix::termios::tcgetattr(descriptor) {
        report.add(
            format!("fd.{number}.modes"),
            format!(
                "{:o} {:o} {:o} {:o}",
                settings.input_modes.bits(),
                settings.output_modes.bits(),
                settings.control_modes.bits(),
                settings.local_modes.bits()
            ),
        );
    }
}

fn kernel_settings(report: &mut Report) {
    for name in
        ["oom_score_adj", "coredump_filter", "loginuid", "sessionid", "attr/current", "attr/exec", "timerslack_ns"]
    {
        report.add(format!("proc.{name}"), content(format!("/proc/self/{name}")).trim_end_matches('\0'));
    }
    report.add("scheduler.policy", sys::scheduler());
    report.add("scheduler.priority", sys::priority());
    report.add("scheduler.nice", sys::nice());
    report.add("scheduler.io", sys::io_priority());
    report.add("personality", sys::personality());
    report.add("keyring", sys::session_keyring());
    report.add("prctl.dumpable", sys::prctl(libc::PR_GET_DUMPABLE));
    report.add("prctl.keep capabilities", sys::prctl(libc::PR_GET_KEEPCAPS));
    report.add("prctl.secure bits", sys::prctl(libc::PR_GET_SECUREBITS));
    report.add("prctl.huge pages disabled", sys::prctl(libc::PR_GET_THP_DISABLE));
    // PR_CAPBSET_READ of the last capability and of one that is none.
    report.add("prctl.last capability", sys::prctl_with(libc::PR_CAPBSET_READ, 40));
    report.add("prctl.no capability", sys::prctl_with(libc::PR_CAPBSET_READ, 41));
}
