//! `sandbox install` and `sandbox uninstall`: this runtime in the configuration files of docker and containerd.
//!
//! Both plan for all files first, so that a file which cannot be edited leaves the others as they are.

mod containerd;
mod docker;
mod engine;
mod error;
mod file;
mod host;

use std::io::Write;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use engine::{Change, Engine};
pub use error::{InstallError, Refusal};
use file::ConfigFile;
pub use host::Host;

/// What the two commands are told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runtime's name: `docker run --runtime=NAME`.
    pub name: String,
    /// docker's file.
    pub docker: PathBuf,
    /// containerd's file.
    pub containerd: PathBuf,
    /// Show what would change, and change nothing.
    pub dry_run: bool,
}

impl Options {
    fn files(&self) -> [(Engine, &Path); 2] {
        [(Engine::Docker, &self.docker), (Engine::Containerd, &self.containerd)]
    }
}

/// A name that docker and containerd take, and that is not one of docker's own.
pub fn runtime_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(plain) {
        return Err("give letters, digits, '-', '_' and '.', the first a letter or a digit".to_string());
    }
    if text == "runc" || text.starts_with("io.containerd.") {
        return Err("docker keeps this name for itself".to_string());
    }
    Ok(text.to_string())
}

/// Adds the runtime to the files of what is on this machine, and says to `out` what was done.
pub fn install(options: &Options, host: &Host, out: &mut impl Write) -> Result<(), InstallError> {
    let mut plans = Vec::new();
    for (engine, path) in options.files() {
        if engine.is_here(path, host) {
            plans.push(Plan::new(engine, path, |file| engine.add(file.text(), &options.name, &host.program))?);
        }
    }
    match plans.iter().find(|plan| plan.change == Change::Unused) {
        // Docker needs no entry in containerd's file.
        Some(plan) if plans.len() == 1 => {
            Err(InstallError::Refused { path: plan.file.path().to_path_buf(), refusal: Refusal::CriDisabled })
        }
        _ if plans.is_empty() => Err(InstallError::NothingHere),
        _ => carry_out(&plans, options, out),
    }
}

/// Takes the runtime out of the files again, and says to `out` what was done.
pub fn uninstall(options: &Options, out: &mut impl Write) -> Result<(), InstallError> {
    let mut plans = Vec::new();
    for (engine, path) in options.files() {
        plans.push(Plan::new(engine, path, |file| engine.remove(file.text(), file.before(), &options.name))?);
    }
    plans.retain(|plan| plan.change != Change::Absent);
    if plans.is_empty() {
        return writeln!(out, "runtime {} is not installed", options.name).map_err(InstallError::Output);
    }
    carry_out(&plans, options, out)
}

/// What is to become of one file.
struct Plan {
    engine: Engine,
    file: ConfigFile,
    change: Change,
}

impl Plan {
    fn new(
        engine: Engine,
        path: &Path,
        change: impl FnOnce(&ConfigFile) -> Result<Change, Refusal>,
    ) -> Result<Self, InstallError> {
        let file = ConfigFile::open(path)?;
        let change = change(&file).map_err(|refusal| InstallError::Refused { path: path.to_path_buf(), refusal })?;
        Ok(Plan { engine, file, change })
    }

    /// What would change, as diff(1) shows it.
    fn diff(&self, text: &str) -> String {
        let path = self.file.path().display().to_string();
        let name = |exists: bool| if exists { path.as_str() } else { "/dev/null" };
        let diff = TextDiff::from_lines(self.file.text(), text);
        diff.unified_diff().header(name(self.file.exists()), name(self.change != Change::FileRemoved)).to_string()
    }

    /// Returns the sentences about what was done.
    fn carry_out(&self, name: &str) -> Result<String, InstallError> {
        let (file, mut kept) = (&self.file, None);
        match &self.change {
            Change::Added(text) => {
                kept = file.keep_backup()?;
                file.write(text)?;
            }
            Change::Updated(text) => file.write(text)?,
            Change::TakenOut(text) => {
                file.write(text)?;
                file.drop_backup(text)?;
            }
            Change::FileRemoved => file.remove()?,
            Change::Present | Change::Absent | Change::NotOurs(_) | Change::Unused => {}
        }
        let kept = kept.map(|backup| format!("; the file as it was: {}", backup.display())).unwrap_or_default();
        Ok(format!("{}: {}{kept}\n", file.path().display(), self.change.sentence(name)))
    }
}

fn carry_out(plans: &[Plan], options: &Options, out: &mut impl Write) -> Result<(), InstallError> {
    for plan in plans {
        let text = match plan.change.text() {
            Some(text) if options.dry_run => plan.diff(text),
            _ => plan.carry_out(&options.name)?,
        };
        out.write_all(text.as_bytes()).map_err(InstallError::Output)?;
    }
    for plan in plans.iter().filter(|plan| !options.dry_run && plan.change.text().is_some()) {
        writeln!(out, "next: {}", plan.engine.next()).map_err(InstallError::Output)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
