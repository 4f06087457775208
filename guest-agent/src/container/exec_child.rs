//! The child's side of ExecProcess: from a copy of the agent, born in the container's cgroup, pid and time namespace, to a
//! process of the container.
//!
//! It can be seen by the container before it is one of its own: the agent makes it undumpable, so that its memory, its
//! descriptors and its root directory are out of the container's reach until execve(2).

use super::child::{become_root, close_others};
use super::namespaces::Joined;
use super::program::{Error, Program, step};
use super::sync::{FromChild, ToChild};
use crate::process::affinity;
use crate::sys;

/// What the child takes along from the agent.
pub struct Job<'a> {
    /// What it becomes in the end.
    pub program: Program<'a>,
    /// The container's namespaces.
    pub joined: Joined,
    /// How many CPUs the guest has.
    pub cpus: usize,
}

/// Everything, to the end.
pub fn run(job: &Job<'_>) -> ! {
    sys::reset_signals();
    let Err(error) = build(job);
    let _ = job.program.channel.send(&FromChild::Failed(error.into()), None);
    sys::exit(1)
}

fn build(job: &Job<'_>) -> Result<std::convert::Infallible, Error> {
    let program = &job.program;
    close_others(&job.joined, program, std::iter::empty());
    if program.channel.expect(ToChild::Go).is_err() {
        sys::exit(1);
    }
    let cpus = &program.process.affinity;
    if let Some(initial) = &cpus.initial {
        step("apply process.execCPUAffinity.initial", affinity::apply(initial, job.cpus))?;
    }
    step("join the container's namespaces", job.joined.enter())?;
    if job.joined.has(libc::CLONE_NEWUSER) {
        become_root()?;
    }
    if let Some(keyring) = program.keyring {
        step("join the container's session keyring", keyring.join())?;
    }
    if let Some(last) = &cpus.last {
        step("apply process.execCPUAffinity.final", affinity::apply(last, job.cpus))?;
    }
    let master = program.open_stdio(false)?;
    let (path, env) = program.become_process()?;
    program.wait_for_start(0, master)?;
    program.execute(&path, &env)
}
