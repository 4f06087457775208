//! Hooks of config.json that run on the host.
//!
//! They belong to whoever wrote the configuration, so they run with the command's own rights; but none of them may hold the
//! command up for ever: a hook that does not read its input, writes without end or leaves a child behind is waited for no
//! longer than it lives itself, and no longer than its timeout.

mod child;
mod place;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Plain, shown};

pub use place::in_guest;

/// When a hook runs, as config.json names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// During create, in the host's namespaces.
    Prestart,
    /// During create, in the host's namespaces, after `prestart`.
    CreateRuntime,
    /// During create, in the container's namespaces.
    CreateContainer,
    /// During start, in the container's namespaces.
    StartContainer,
    /// After the container's process was started.
    Poststart,
    /// After the container was deleted.
    Poststop,
}

impl Phase {
    /// All, in the order in which they come.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The name in config.json.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The hooks of this phase.
    pub fn of(self, hooks: &oci_spec::runtime::Hooks) -> &[Hook] {
        #[allow(deprecated)] // by the specification, yet in use
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running hook #{index}: {phase} hook {}: {failure}", shown(&path.display().to_string()))]
pub struct HookError {
    /// When it ran.
    pub phase: Phase,
    /// Its place in the list, from 0.
    pub index: usize,
    /// What was to run.
    pub path: PathBuf,
    /// What happened.
    pub failure: Failure,
}

/// How a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be started.
    #[error("cannot start it: {}", Plain(.0))]
    Start(io::Error),
    /// The network namespace could not be entered.
    #[error("cannot enter the container's network namespace: {}", Plain(.0))]
    Namespace(io::Error),
    /// It could not be watched.
    #[error("cannot wait for it: {}", Plain(.0))]
    Wait(io::Error),
    /// It ended, but not well.
    #[error("{end}, stdout: {}, stderr: {}", shown(.stdout), shown(.stderr))]
    Status {
        /// `exit status N` or `signal: WORDS`.
        end: String,
        /// The last that it wrote.
        stdout: String,
        /// The last that it wrote.
        stderr: String,
    },
    /// It ran too long, and was killed.
    #[error("hook ran past specified timeout of {:.1}s", .0.as_secs_f64())]
    Timeout(Duration),
}

/// How many seconds hooks may take together, as far as they say.
pub fn seconds(hooks: &[Hook]) -> u64 {
    let each = hooks.iter().filter_map(Hook::timeout).map(|seconds| seconds.max(0).unsigned_abs());
    each.fold(0, u64::saturating_add)
}

/// Where hooks run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// Their working directory, if it is there. As with runc, which changes to the bundle first of all, that is the bundle, or the
    /// container's root for those in its namespaces.
    pub directory: Option<&'a Path>,
    /// Their network namespace, if not the caller's.
    pub network: Option<BorrowedFd<'a>>,
}

impl<'a> Surroundings<'a> {
    /// The caller's, in a directory.
    pub fn at(directory: &'a Path) -> Self {
        Self { directory: Some(directory), network: None }
    }
}

/// Runs the hooks of one phase, one after another, each with `state_json` on its stdin. The first that fails ends it, but in
/// [`Phase::Poststop`]: there a failure is logged, and the next one runs.
pub fn run_all(
    phase: Phase,
    hooks: &[Hook],
    state_json: &[u8],
    surroundings: Surroundings<'_>,
) -> Result<(), HookError> {
    for (index, hook) in hooks.iter().enumerate() {
        log::debug!("{phase} hook #{index}: {}", hook.path().display());
        let result = run_one(hook, state_json, surroundings);
        let Err(failure) = result else { continue };
        let error = HookError { phase, index, path: hook.path().clone(), failure };
        if phase != Phase::Poststop {
            return Err(error);
        }
        log::warn!("{error}");
    }
    Ok(())
}

fn run_one(hook: &Hook, state_json: &[u8], surroundings: Surroundings<'_>) -> Result<(), Failure> {
    let Surroundings { directory, network } = surroundings;
    let Some(netns) = network else { return child::run(hook, state_json, directory) };
    // A namespace is a thread's, and a child has that of the thread that starts it: this process's other threads stay where they are.
    thread::scope(|scope| {
        let entered = || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                .map_err(|error| Failure::Namespace(error.into()))?;
            child::run(hook, state_json, directory)
        };
        let spawned = thread::Builder::new().spawn_scoped(scope, entered).map_err(Failure::Start)?;
        spawned.join().unwrap_or_else(|_| Err(Failure::Wait(io::Error::other("its thread ended"))))
    })
}

#[cfg(test)]
mod tests;
