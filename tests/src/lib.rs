//! Integration tests: real programs in real bundles, run by `sandbox run`, or by `runc run` to check the tests themselves.
//!
//! The program `itest` runs the [`cases`] one after the other on a machine that can run them (`tests/on-kvm`). Each is a process
//! of its own with a time limit, and a [`census`] before and after it finds whatever it left behind.

pub mod bundle;
pub mod cases;
pub mod census;
pub mod fscheck;
pub mod pattern;
pub mod run;
pub mod see;
pub mod sys;
pub mod terminal;
pub mod tree;
pub mod world;

use std::path::{Path, PathBuf};

/// Which runtimes a case is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum For {
    /// Any OCI runtime: what runc does is right.
    Any,
    /// What only `sandbox` has or says.
    Sandbox,
}

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// `group::name`
    pub name: &'static str,
    /// Which runtimes it is for.
    pub runtimes: For,
    /// Time limit.
    pub seconds: u64,
    /// Panics when the test fails.
    pub run: fn(&Env),
}

/// Where a case finds what it needs.
#[derive(Clone, Debug)]
pub struct Env {
    /// The case's name.
    pub case: String,
    /// The runtime's path or name.
    pub runtime: PathBuf,
    /// Directory on a real file system for bundles; the case has `work/CASE` for itself.
    pub work: PathBuf,
    /// The Debian root file system, read-only.
    pub debian: PathBuf,
    /// The busybox root file system, read-only by agreement.
    pub busybox: PathBuf,
    /// The program `probe`, static.
    pub probe: PathBuf,
}

impl Env {
    /// The runtime is runc or crun.
    pub fn is_runc(&self) -> bool {
        let name = self.runtime.file_name().unwrap_or_default();
        name == "runc" || name == "crun"
    }

    /// An empty directory of the case's own, by name.
    pub fn directory(&self, name: &str) -> PathBuf {
        let directory = self.scratch().join(name);
        std::fs::create_dir_all(&directory).expect("create directory");
        directory
    }

    /// Directory of the case's own; the runner removes it.
    pub fn scratch(&self) -> PathBuf {
        self.work.join(self.case.replace("::", "-"))
    }

    /// A file of the case's own with this content.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory("files").join(name);
        std::fs::write(&path, content).expect("write file");
        path
    }
}

/// Runs a program of the host to its end and returns what it printed; panics when it fails.
pub fn host(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let program = program.as_ref();
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
