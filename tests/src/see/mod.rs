//! What a program sees inside a container, as lines `key=value`: the differential tests compare two of these reports.
//!
//! Values are the same on any machine where the container is the same: relations instead of numbers where the numbers are the
//! kernel's choice (process IDs, namespaces, inodes).

mod calls;
mod files;
mod groups;
mod mounts;
mod process;
mod sys;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Facts by key.
#[derive(Default)]
pub struct Report(BTreeMap<String, String>);

impl Report {
    /// Adds a fact; a key that is there already gets a number.
    pub fn add(&mut self, key: impl Into<String>, value: impl Display) {
        let key = key.into().replace('=', "≡");
        let mut unique = key.clone();
        let mut count = 1;
        while self.0.contains_key(&unique) {
            count += 1;
            unique = format!("{key}#{count}");
        }
        self.0.insert(unique, value.to_string());
    }

    /// Adds a file's content, or why it cannot be read.
    pub fn file(&mut self, key: impl Into<String>, path: impl AsRef<Path>) {
        self.add(key, content(path));
    }

    fn print(self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for (key, value) in self.0 {
            writeln!(out, "{}={}", one_line(&key), one_line(&value))?;
        }
        out.flush()
    }
}

/// Prints all that can be seen. What a seccomp profile may kill for comes last, line by line.
pub fn all() -> io::Result<u8> {
    let mut report = Report::default();
    process::see(&mut report);
    groups::see(&mut report);
    mounts::see(&mut report);
    files::see(&mut report);
    report.print()?;
    calls::see(|key, value| {
        println!("{key}={value}");
        io::stdout().flush()
    })?;
    Ok(0)
}

/// Control characters are escaped, so that a fact is a line.
fn one_line(text: &str) -> String {
    let escape = |character: char| match character {
        '\\' => "\\\\".to_owned(),
        _ if character.is_control() => character.escape_debug().to_string(),
        _ => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// A file's content without the last newline, or `!` and the error.
fn content(path: impl AsRef<Path>) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned(),
        Err(error) => failure(&error),
    }
}

/// An error in short.
fn failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("!{}", sys::errno_name(number)),
        None => format!("!{error}"),
    }
}
