//! `sandbox list`: the containers below a root directory.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::ValueEnum;

use super::CommandError;
use crate::state::{Record, StateDir};

/// How lists are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints the containers, or only their names.
pub fn list(root: &Path, quiet: bool, format: Format) -> Result<(), CommandError> {
    let states = StateDir::list(root)?.into_iter().filter_map(|id| StateDir::open(root, &id).ok());
    // One that is being made, or was just removed, is none.
    let records: Vec<Record> = states.filter_map(|state| state.read().ok().flatten()).collect();
    let text = match (quiet, format) {
        (true, _) => records.iter().map(|record| format!("{}\n", record.id)).collect(),
        (false, Format::Json) => json(&records),
        (false, Format::Table) => table(root, &records),
    };
    print(&text)
}

/// Prints a text whole.
pub fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::io("write to standard output"))
}

/// An array; `null` when there is none, as programs know it from runc.
fn json(records: &[Record]) -> String {
    let shown: Vec<_> = records.iter().map(Record::shown).collect();
    let text = if shown.is_empty() { Ok("null".to_string()) } else { serde_json::to_string(&shown) };
    text.unwrap_or_default() + "\n"
}

fn table(root: &Path, records: &[Record]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_string)];
    for record in records {
        let shown = serde_json::to_value(record.shown()).unwrap_or_default();
        let text = |name: &str| shown[name].as_str().unwrap_or_default().to_string();
        let owner = fs::metadata(root.join(&record.id)).map(|metadata| user_name(metadata.uid())).unwrap_or_default();
        rows.push([text("id"), shown["pid"].to_string(), text("status"), text("bundle"), text("created"), owner]);
    }
    aligned(&rows)
}

/// Columns as wide as their longest cell, and at least 12, with the last one as it is.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column + 1 {
            last if last == N => cell.clone(),
            _ => format!("{cell:<width$}", width = width(column)),
        });
        cells.collect::<String>() + "\n"
    };
    rows.iter().map(line).collect()
}

fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&number.as_str()));
    found.and_then(|fields| fields.first().map(|name| name.to_string())).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_null() {
        assert_eq!(json(&[]), "null\n");
        assert_eq!(table(Path::new("/"), &[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn names_of_users() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000), "4000000");
    }
}
