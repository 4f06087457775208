//! The files: devices, the root directory, and paths that a runtime hides or protects.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{Report, failure};

/// Trees whose content is told entry by entry.
const TREES: &[&str] = &["/dev", "/volume", "/scratch", "/new"];

/// What is read, as far as it is there.
const READ: &[&str] = &[
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/1/environ",
    "/proc/1/root",
    "/sys/firmware",
    "/sys/kernel",
    "/sys/fs/cgroup",
    "/sys/devices/virtual/powercap",
    "/etc/passwd",
    "/etc/hostname",
    "/root",
    "/tmp",
    "/mnt",
    "/volume",
    "/volume/file",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/tty",
    "/dev/console",
    "/dev/fuse",
    "/dev/extra/zero",
    "/dev/extra/block",
    "/proc/sys/kernel/hostname",
];

/// What is opened for writing and not written.
const WRITTEN: &[&str] = &[
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/domainname",
    "/proc/irq/default_smp_affinity",
    "/proc/self/oom_score_adj",
    "/proc/self/attr/exec",
    "/proc/self/timerslack_ns",
    "/sys/kernel/uevent_seqnum",
    "/sys/fs/cgroup/cgroup.procs",
    "/etc/passwd",
    "/bin/busybox",
    "/dev/null",
    "/dev/full",
    "/dev/kmsg",
    "/dev/extra/zero",
    "/volume/file",
];

/// Directories in which a file is made.
const MADE_IN: &[&str] = &[
    "/",
    "/etc",
    "/tmp",
    "/root",
    "/mnt",
    "/dev",
    "/dev/shm",
    "/dev/mqueue",
    "/volume",
    "/volume/inner",
    "/scratch",
    "/new",
    "/sys/fs/cgroup",
    "/proc",
];

pub(super) fn see(report: &mut Report) {
    for path in READ {
        report.add(format!("read:{path}"), read(Path::new(path)));
    }
    for path in WRITTEN {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        report.add(format!("write:{path}"), opened.map_or_else(|error| failure(&error), |_| "allowed".to_owned()));
    }
    entries(report, Path::new("/"), false);
    for tree in TREES {
        if Path::new(tree).is_dir() {
            entries(report, Path::new(tree), true);
        }
    }
    for directory in MADE_IN {
        made(report, Path::new(directory));
    }
    device_nodes(report);
    other_processes(report);
}

/// Whether there is anything to read.
fn read(path: &Path) -> String {
    match fs::metadata(path) {
        Err(error) => failure(&error),
        Ok(stat) if stat.is_dir() => match fs::read_dir(path) {
            Ok(mut entries) => if entries.next().is_some() { "a directory" } else { "an empty directory" }.to_owned(),
            Err(error) => failure(&error),
        },
        Ok(_) => {
            let mut byte = [0];
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            match OpenOptions::new().read(true).custom_flags(flags).open(path).and_then(|mut file| file.read(&mut byte))
            {
                Ok(0) => "empty".to_owned(),
                Ok(_) => "something".to_owned(),
                Err(error) => failure(&error),
            }
        }
    }
}

/// One line for each entry, with what is below it when that is asked for; other file systems below are mounts and told there.
fn entries(report: &mut Report, directory: &Path, deep: bool) {
    let Ok(list) = fs::read_dir(directory) else { return };
    for entry in list.flatten() {
        let path = entry.path();
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        let mut what = format!("mode {:o} {}:{}", stat.mode() & 0o7777, stat.uid(), stat.gid());
        let kind = stat.file_type();
        let kind = if kind.is_symlink() {
            what = fs::read_link(&path).map_or_else(|error| failure(&error), |target| target.display().to_string());
            "link to".to_owned()
        } else if kind.is_char_device() || kind.is_block_device() {
            let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
            format!("{} {major}:{minor}", if kind.is_char_device() { "c" } else { "b" })
        } else if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("file of {} bytes", stat.len())
        };
        // Which terminals there are is told with the descriptors.
        report.add(format!("entry:{}", path.display()), format!("{kind} {what}"));
        if stat.is_dir() && deep && !path.starts_with("/dev/pts") {
            entries(report, &path, deep);
        }
    }
}

/// What a new file is like.
fn made(report: &mut Report, directory: &Path) {
    let path = directory.join("made-by-probe");
    let what = match OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path) {
        Ok(file) => match file.metadata() {
            Ok(stat) => format!("mode {:o} {}:{}", stat.mode() & 0o7777, stat.uid(), stat.gid()),
            Err(error) => failure(&error),
        },
        Err(error) => failure(&error),
    };
    let _ = fs::remove_file(&path);
    report.add(format!("make:{}", directory.display()), what);
}

/// Which devices a node can be made for and opened: mknod is one capability's affair, opening the device rules'.
fn device_nodes(report: &mut Report) {
    let devices = [
        ("null", 1, 3),
        ("kmsg", 1, 11),
        ("zero", 1, 5),
        ("tty", 5, 0),
        ("console", 5, 1),
        ("ptmx", 5, 2),
        ("fuse", 10, 229),
        ("tun", 10, 200),
        ("rtc", 10, 135),
        ("mem", 1, 1),
        ("tty0", 4, 0),
        ("pts", 136, 1000),
    ];
    for directory in ["/tmp", "/dev/shm"] {
        for (name, major, minor) in devices {
            let path = Path::new(directory).join(format!("node-{name}"));
            let device = rustix::fs::makedev(major, minor);
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let node = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, device);
            let what = match node {
                Err(error) => format!("mknod {}", failure(&error.into())),
                Ok(()) => {
                    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
                    let opened = OpenOptions::new().read(true).custom_flags(flags).open(&path);
                    format!("open {}", opened.map_or_else(|error| failure(&error), |_| "allowed".to_owned()))
                }
            };
            let _ = fs::remove_file(&path);
            report.add(format!("node:{directory}:{name}"), what);
        }
    }
}

/// How many processes /proc shows besides this one.
fn other_processes(report: &mut Report) {
    let own = std::process::id().to_string();
    let others = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit()) && name != own
    });
    report.add("proc.others", if others.count() == 0 { "none" } else { "some" });
}
