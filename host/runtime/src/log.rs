//! What a command tells beside its output: lines in the file that the caller reads them from, else on stderr. An error is a sentence on
//! stderr in any case.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use ::log::{Level, LevelFilter, Metadata, Record};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::timestamp;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// Where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    file: Option<PathBuf>,
    format: Format,
}

impl Log {
    /// A log to `file`, if there is one.
    pub fn new(file: Option<PathBuf>, format: Format) -> Self {
        Self { file, format }
    }

    /// From now on what the program tells by `log`'s macros goes here too.
    pub fn install(self, most: LevelFilter) -> &'static Self {
        let log: &Self = Box::leak(Box::new(self));
        if ::log::set_logger(log).is_ok() {
            ::log::set_max_level(most);
        }
        log
    }

    /// The same for a process that works elsewhere.
    pub fn absolute(&self) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self { file: self.file.as_ref().map(absolute), format: self.format }
    }

    /// Reports an error.
    pub fn error(&self, message: &str) {
        self.write(Level::Error, message);
    }

    /// Writes this to the file, if there is one, and nowhere else.
    pub fn keep(&self, level: Level, message: &str) -> io::Result<()> {
        self.append(&self.line(level, message, &timestamp::now_seconds()))
    }

    fn append(&self, line: &str) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        // Callers expect nothing but whole lines there.
        OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
    }

    /// Neither stderr nor the file has to be there: that is no reason to fail otherwise.
    fn write(&self, level: Level, message: &str) {
        let line = self.line(level, message, &timestamp::now_seconds());
        if let (Err(error), Some(path)) = (self.append(&line), &self.file) {
            let _ = writeln!(io::stderr(), "sandbox: --log {}: {}", path.display(), crate::error::Plain(&error));
        }
        let _ = match (level, &self.file, self.format) {
            (Level::Error, Some(_), _) | (Level::Error, None, Format::Text) => {
                writeln!(io::stderr(), "sandbox: {message}")
            }
            (_, None, _) => io::stderr().write_all(line.as_bytes()),
            _ => Ok(()),
        };
    }

    fn line(&self, level: Level, message: &str, time: &str) -> String {
        let level = name(level);
        match self.format {
            Format::Json => json!({"level": level, "msg": message, "time": time}).to_string() + "\n",
            // As JSON quotes it, which is how Go's programs read it.
            Format::Text => format!("time={} level={level} msg={}\n", json!(time), json!(message)),
        }
    }
}

/// As callers know it.
fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

impl ::log::Log for Log {
    /// What libraries tell is of no use to a caller.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gets_one_line_for_each_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.json");
        let log = Log::new(Some(path.clone()), Format::Json);
        log.error("exec: \"foo\": not\nthere");
        log.error("second");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["msg"], "exec: \"foo\": not\nthere");
        assert_eq!((&lines[1]["level"], &lines[1]["msg"]), (&json!("error"), &json!("second")));
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn levels_and_targets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = Log::new(Some(path.clone()), Format::Text);
        for (target, level) in [("sandbox::x", Level::Warn), ("sandboxed", Level::Debug), ("ttrpc", Level::Debug)] {
            let mut record = Record::builder();
            ::log::Log::log(&log, &record.target(target).level(level).args(format_args!("from {target}")).build());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with(" level=warning msg=\"from sandbox::x\"\n") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn text() {
        let log = Log::new(None, Format::Text);
        let line = log.line(Level::Debug, "a \"b\"\n\u{1b}\\'", "T");
        assert_eq!(line, "time=\"T\" level=debug msg=\"a \\\"b\\\"\\n\\u001b\\\\'\"\n");
    }
}
