//! The process that `exec` is asked for: an OCI process from a file, or the bundle's own with another command line.

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::{CommandError, bounded};
use crate::bundle::{Bundle, any_case, repair_process};
use crate::state::Record;

/// The command line's side of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// An OCI process as JSON; the rest is ignored then.
    pub file: Option<PathBuf>,
    /// The command.
    pub arguments: Vec<String>,
    /// It gets a terminal.
    pub tty: bool,
    /// Its working directory, if not the bundle's.
    pub cwd: Option<String>,
    /// More of its environment.
    pub environment: Vec<String>,
    /// `uid[:gid]`.
    pub user: Option<String>,
    /// More groups.
    pub groups: Vec<u32>,
    /// More capabilities.
    pub capabilities: Vec<String>,
    /// No new privileges.
    pub no_new_privileges: bool,
    /// An AppArmor profile.
    pub apparmor: String,
    /// An SELinux label.
    pub label: String,
}

/// Makes the process.
pub(super) fn build(wanted: &Wanted, record: &Record) -> Result<Process, CommandError> {
    let mut process = match &wanted.file {
        Some(path) => read(path).map_err(CommandError::file("--process", path))?,
        None => {
            // By way of its type: the fields that are changed are what they should be.
            let spec = Bundle::spec_in(&record.bundle)?;
            let mut process = json!(spec.process().as_ref().ok_or(CommandError::NoArguments)?);
            change(&mut process, wanted)?;
            process
        }
    };
    repair_process(&mut process);
    let option = wanted.file.as_deref().unwrap_or(Path::new("config.json"));
    let invalid = |error: serde_json::Error| CommandError::file("--process", option)(error.into());
    let mut process: Process = any_case::from_value(process).map_err(invalid)?;
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(CommandError::NoArguments);
    }
    // As for the container's first process: they keep it from the host's kernel, which it never meets.
    process.set_apparmor_profile(None).set_selinux_label(None);
    Ok(process)
}

fn read(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&bounded::file(path)?)?)
}

fn change(process: &mut Value, wanted: &Wanted) -> Result<(), CommandError> {
    for (option, text) in [("--apparmor", &wanted.apparmor), ("--process-label", &wanted.label)] {
        if !text.is_empty() {
            return Err(CommandError::NoSecurityModule(option));
        }
    }
    process["args"] = json!(wanted.arguments);
    process["terminal"] = json!(wanted.tty);
    if let Some(cwd) = &wanted.cwd {
        process["cwd"] = json!(cwd);
    }
    extend(process, "env", &wanted.environment);
    if let Some(user) = &wanted.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| text.parse::<u32>().map_err(|_| CommandError::User(user.clone()));
        process["user"]["uid"] = json!(number(uid)?);
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(number(gid)?);
        }
    }
    extend(&mut process["user"], "additionalGids", &wanted.groups);
    if !wanted.capabilities.is_empty() {
        for set in ["bounding", "effective", "permitted"] {
            extend(&mut process["capabilities"], set, &wanted.capabilities);
        }
    }
    if wanted.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(())
}

fn extend<T: serde::Serialize>(object: &mut Value, key: &str, more: &[T]) {
    if more.is_empty() {
        return;
    }
    let list = &mut object[key];
    let mut all = list.as_array().cloned().unwrap_or_default();
    all.extend(more.iter().map(|one| json!(one)));
    *list = Value::Array(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(wanted: &Wanted) -> Value {
        let mut process = json!({"args": ["sh"], "cwd": "/", "env": ["A=1"], "terminal": true,
            "user": {"uid": 1, "gid": 2}, "capabilities": {"bounding": ["CAP_KILL"]}});
        change(&mut process, wanted).unwrap();
        process
    }

    #[test]
    fn options_change_the_bundles_process() {
        let wanted = Wanted {
            arguments: vec!["ls".to_string()],
            cwd: Some("/tmp".to_string()),
            environment: vec!["B=2".to_string()],
            user: Some("5:6".to_string()),
            groups: vec![7],
            capabilities: vec!["CAP_CHOWN".to_string()],
            no_new_privileges: true,
            ..Default::default()
        };
        assert_eq!(
            changed(&wanted),
            json!({"args": ["ls"], "cwd": "/tmp", "env": ["A=1", "B=2"], "terminal": false,
                "user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}})
        );
    }

    #[test]
    fn little_is_changed_without_options() {
        let process = changed(&Wanted { user: Some("9".to_string()), ..Default::default() });
        assert_eq!(process["user"], json!({"uid": 9, "gid": 2}));
        assert_eq!((&process["cwd"], &process["env"]), (&json!("/"), &json!(["A=1"])));
        let mut process = json!({});
        let wanted = Wanted { user: Some("root".to_string()), ..Default::default() };
        assert!(change(&mut process, &wanted).unwrap_err().to_string().contains("\"root\""));
    }
}
