//! The command lines of exec, ps, update and events.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::commands::exec_process::Wanted;
use crate::commands::handover::Handover;
use crate::commands::list::Format;
use crate::commands::update::Limits;
use crate::commands::{CommandError, exec, ps};
use crate::preserved;

#[derive(Debug, Args)]
pub(super) struct ExecArguments {
    /// File with an OCI process as JSON
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,

    /// Do not wait for the process's end
    #[arg(short, long)]
    detach: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,

    /// More of its environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// UID or UID:GID
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// More groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,

    /// More capabilities
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,

    /// Set no_new_privs
    #[arg(long)]
    no_new_privs: bool,

    /// AppArmor profile: the guest's kernel has no AppArmor
    #[arg(long, value_name = "PROFILE", default_value = "", hide_default_value = true)]
    apparmor: String,

    /// SELinux label: the guest's kernel has no SELinux
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    process_label: String,

    #[command(flatten)]
    handover: Handover,

    /// Pass on this many descriptors from 3 up, as pipes and sockets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,

    /// A cgroup below the container's
    #[arg(long, value_name = "PATH")]
    cgroup: Vec<String>,

    /// Start it in a paused container too
    #[arg(long)]
    ignore_paused: bool,

    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,

    /// The command
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl ExecArguments {
    pub(super) fn options(self, root: &Path) -> Result<exec::Options, CommandError> {
        Ok(exec::Options {
            root: root.to_path_buf(),
            id: self.id,
            wanted: Wanted {
                file: self.process,
                arguments: self.command,
                tty: self.tty,
                cwd: self.cwd,
                environment: self.env,
                user: self.user,
                groups: self.additional_gids,
                capabilities: self.cap,
                no_new_privileges: self.no_new_privs,
                apparmor: self.apparmor,
                label: self.process_label,
            },
            detach: self.detach,
            handover: self.handover,
            preserved: preserved::take(self.preserve_fds)?,
            cgroups: self.cgroup,
            ignore_paused: self.ignore_paused,
        })
    }
}

/// Whatever is given: the refusal is the same.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Unsupported {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PsArguments {
    /// How to print: pids of the host as JSON, or the guest's as a table
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    /// Name of the container, and options of ps(1) that choose columns, processes by their pids in the guest and their order: -o, -l, -j, -p, --sort, … [default: -ef]
    #[arg(value_name = "ID", num_args = 1.., required = true, trailing_var_arg = true)]
    words: Vec<String>,
}

impl PsArguments {
    pub(super) fn print(&self, root: &Path) -> Result<(), CommandError> {
        let (id, options) = self.words.split_first().map_or(("", &[][..]), |(id, options)| (id.as_str(), options));
        ps::ps(root, id, self.format, options)
    }
}

#[derive(Debug, Args)]
pub(super) struct EventsArguments {
    /// Print what is used now, and end
    #[arg(long)]
    pub(super) stats: bool,

    /// Time between two (`500ms`, `5s`, `1m`)
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(super) interval: Duration,

    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    pub(super) id: String,
}

/// A time with its unit, more than none.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("give a number and a unit: ms, s, m or h".to_string()),
    };
    let number: f64 = number.parse().map_err(|_| "give a number and a unit".to_string())?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("give a time greater than zero".to_string()),
    }
}

#[derive(Debug, Args)]
pub(super) struct UpdateArguments {
    /// linux.resources as JSON; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,

    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,

    /// Microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,

    /// Microseconds in each period
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,

    /// Microseconds on top of the quota
    #[arg(long, value_name = "N")]
    cpu_burst: Option<u64>,

    /// Weight of processor time
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,

    /// 1: only when no other container wants the processor
    #[arg(long, value_name = "N")]
    cpu_idle: Option<i64>,

    /// Without effect: cgroup v2, which the guest has, knows no limit of real-time processes
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<u64>,

    /// Without effect, as --cpu-rt-period
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,

    /// Processors
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// Bytes, or with a unit: 50M
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size)]
    memory: Option<i64>,

    /// Bytes that are given up last
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size)]
    memory_reservation: Option<i64>,

    /// Bytes of memory and swap together
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size)]
    memory_swap: Option<i64>,

    /// Without effect
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size, hide = true)]
    kernel_memory: Option<i64>,

    /// Without effect
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size, hide = true)]
    kernel_memory_tcp: Option<i64>,

    /// Processes and threads
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// Not supported
    #[arg(long, value_name = "SCHEMA", hide = true)]
    l3_cache_schema: Option<String>,

    /// Not supported
    #[arg(long, value_name = "SCHEMA", hide = true)]
    mem_bw_schema: Option<String>,

    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    pub(super) id: String,
}

impl UpdateArguments {
    pub(super) fn limits(&self) -> Result<Limits, CommandError> {
        if self.l3_cache_schema.is_some() {
            return Err(CommandError::CacheControl("--l3-cache-schema"));
        }
        if self.mem_bw_schema.is_some() {
            return Err(CommandError::CacheControl("--mem-bw-schema"));
        }
        if self.kernel_memory.or(self.kernel_memory_tcp).is_some() {
            log::warn!("--kernel-memory, --kernel-memory-tcp: limits of kernel memory are ignored");
        }
        let fields: [(&'static str, Value); 14] = [
            ("blockIO/weight", json!(self.blkio_weight)),
            ("cpu/period", json!(self.cpu_period)),
            ("cpu/quota", json!(self.cpu_quota)),
            ("cpu/burst", json!(self.cpu_burst)),
            ("cpu/shares", json!(self.cpu_share)),
            ("cpu/idle", json!(self.cpu_idle)),
            ("cpu/realtimePeriod", json!(self.cpu_rt_period)),
            ("cpu/realtimeRuntime", json!(self.cpu_rt_runtime)),
            ("cpu/cpus", json!(self.cpuset_cpus)),
            ("cpu/mems", json!(self.cpuset_mems)),
            ("memory/limit", json!(self.memory)),
            ("memory/reservation", json!(self.memory_reservation)),
            ("memory/swap", json!(self.memory_swap)),
            ("pids/limit", json!(self.pids_limit)),
        ];
        let given = fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Ok(Limits { file: self.resources.clone(), fields: given })
    }
}

/// Bytes as runc's callers write them: `50M`, `1.5g`, `64KiB`, `7b`, units of 1,024; -1 is no limit.
fn size(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    let wrong = || format!("{text:?} is no size such as 50M");
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim_end().parse().map_err(|_| wrong())?;
    let bytes = number * 1024f64.powi(power);
    if (0.0..9e18).contains(&bytes) { Ok(bytes as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("-1", -1),
            ("0", 0),
            ("67108864", 64 << 20),
            ("50M", 50 << 20),
            ("1.5g", 3 << 29),
            ("64KiB", 64 << 10),
            ("7b", 7),
            ("2 kb", 2048),
        ] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "M", "-2", "5x", "1e400", "nan", "inf", "50MM", "9999P", "5 5"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("20ms").unwrap(), Duration::from_millis(20));
        for text in ["", "5", "s", "0s", "-1s", "1e400h", "5x"] {
            duration(text).unwrap_err();
        }
    }
}
