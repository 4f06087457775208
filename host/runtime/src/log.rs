//! Errors: a sentence on stderr, and a line in the file that the caller reads them from.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

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

/// Where errors go.
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

    /// The same for a process that works elsewhere.
    pub fn absolute(&self) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self { file: self.file.as_ref().map(absolute), format: self.format }
    }

    /// Writes an error to the file, if there is one, and nowhere else.
    pub fn write(&self, message: &str) -> io::Result<()> {
        let Some(path) = &self.file else { return Ok(()) };
        let line = self.line(message, &timestamp::now_seconds());
        // Callers expect nothing but whole lines there.
        OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
    }

    /// Reports an error. Neither stderr nor the file has to be there: that is no reason to fail otherwise.
    pub fn error(&self, message: &str) {
        if let (Err(error), Some(path)) = (self.write(message), &self.file) {
            let _ = writeln!(io::stderr(), "sandbox: --log {}: {}", path.display(), crate::error::Plain(&error));
        }
        let line = self.line(message, &timestamp::now_seconds());
        let _ = match (&self.file, self.format) {
            (None, Format::Json) => io::stderr().write_all(line.as_bytes()),
            _ => writeln!(io::stderr(), "sandbox: {message}"),
        };
    }

    fn line(&self, message: &str, time: &str) -> String {
        match self.format {
            Format::Json => json!({"level": "error", "msg": message, "time": time}).to_string() + "\n",
            Format::Text => format!("time={time:?} level=error msg={message:?}\n"),
        }
    }
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
    fn text() {
        let log = Log::new(None, Format::Text);
        assert_eq!(log.line("a \"b\"", "T"), "time=\"T\" level=error msg=\"a \\\"b\\\"\"\n");
    }
}
