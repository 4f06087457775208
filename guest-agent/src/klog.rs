//! The agent's log: lines in the kernel's ring buffer, which the monitor shows when a guest dies.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct KernelLog;

static KMSG: OnceLock<File> = OnceLock::new();

/// Opens /dev/kmsg. From here on errors and warnings are written there.
pub fn open() {
    if let Ok(file) = File::options().write(true).open("/dev/kmsg") {
        let _ = KMSG.set(file);
    }
    if log::set_logger(&KernelLog).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// For processes of the agent's that close all others.
pub fn descriptor() -> Option<RawFd> {
    KMSG.get().map(AsRawFd::as_raw_fd)
}

/// Takes the level from the kernel's command line: `sandbox.log=debug` shows all.
pub fn set_level(command_line: &str) {
    if command_line.split_ascii_whitespace().any(|word| word == "sandbox.log=debug") {
        log::set_max_level(LevelFilter::Debug);
    }
}

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if let (true, Some(mut file)) = (self.enabled(record.metadata()), KMSG.get()) {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            // One write is one record; the kernel refuses more than about 1 KiB, and shows a record without a newline only
            // when the next one comes.
            let mut line = format!("<{priority}>sandbox-agent: {}", record.args());
            line.truncate(line.floor_char_boundary(900));
            line.push('\n');
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
