//! ExecProcess, the agent's side.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_protocol::agent::{ExecProcessRequest, Stdio};
use rustix::fs::Uid;
use rustix::process::Signal;

use super::birth::{self, Born};
use super::ends::{self, Ends, Streams};
use super::exec_child::{self, Job};
use super::namespaces::{self, Joined};
use super::process::{End, Report};
use super::program::Program;
use super::{Container, Error, Process, create, execute, step, sync};
use crate::agent::Agent;
use crate::mappings::outside;
use crate::process::affinity;
use crate::spec::{Namespaces, ProcessPlan};
use crate::{stdio, sys};

/// What the reply tells.
pub struct Executed {
    /// In the guest's pid namespace.
    pub pid: i32,
    /// When execve(2) had succeeded; 0 when it is yet to come.
    pub executed_ns: u64,
}

/// Starts one more process in a container.
pub async fn exec(
    agent: &Arc<Agent>,
    container: &Arc<Container>,
    request: ExecProcessRequest,
) -> Result<Executed, Error> {
    let id = &request.exec_id;
    let plan = check_exec(&request, &container.plan.process.given)?;
    let stdio = request.stdio.clone().into_option().unwrap_or_default();
    accepts(container, request.ignore_paused)?;
    container.execs.reserve(id)?;
    let started = start(agent, container, &request, plan, &stdio).await;
    if started.is_err() {
        container.execs.forget(id);
    }
    started
}

/// All that can be said of the request itself. `first` is the container's first process.
pub fn check_exec(request: &ExecProcessRequest, first: &oci_spec::runtime::Process) -> Result<ProcessPlan, Error> {
    create::check_id(&request.exec_id)?;
    let plan = ProcessPlan::exec(&request.process_json, first).map_err(Error::Process)?;
    ends::check(request.stdio.as_ref().unwrap_or_default(), plan.terminal())?;
    Ok(plan)
}

/// Whether a process may be added now.
fn accepts(container: &Container, ignore_paused: bool) -> Result<(), Error> {
    if container.first.has_exited() {
        return Err(Error::ExecStopped);
    }
    if container.cgroup.freezing() && !ignore_paused {
        return Err(Error::ExecPaused);
    }
    Ok(())
}

async fn start(
    agent: &Arc<Agent>,
    container: &Arc<Container>,
    request: &ExecProcessRequest,
    plan: ProcessPlan,
    stdio: &Stdio,
) -> Result<Executed, Error> {
    let streams = Streams::claim(agent, stdio).await?;
    // Much may have happened meanwhile; from here to the clone nothing can.
    accepts(container, request.ignore_paused)?;
    if container.execs.was_killed(&request.exec_id) {
        return Err(Error::Finished);
    }
    let frozen = container.cgroup.freezing();
    let born = give_birth(agent, container, &plan, &streams, stdio, &request.sub_cgroup)?;
    let pid = born.pid;
    let (process, report) = Process::new(pid);
    let process = Arc::new(process);
    container.execs.put(&request.exec_id, process.clone());
    let supervised = Supervised { container: container.clone(), id: request.exec_id.clone(), process, report };
    let run = run(supervised, born, streams, plan);
    let pid = pid.as_raw_pid();
    if !frozen {
        return Ok(Executed { pid, executed_ns: run.await? });
    }
    let id = request.exec_id.clone();
    tokio::spawn(async move {
        if let Err(error) = run.await {
            log::warn!("process {id:?}, started while the container was paused: {error}");
        }
    });
    Ok(Executed { pid, executed_ns: 0 })
}

/// The clone. No await between it and [`crate::reaper::Reaper::watch`].
fn give_birth(
    agent: &Agent,
    container: &Container,
    process: &ProcessPlan,
    streams: &Streams,
    stdio: &Stdio,
    sub_cgroup: &str,
) -> Result<Born, Error> {
    let plan = &container.plan;
    // Its namespaces cannot be found any more once it is dead, even when it was not reaped yet.
    let joined = Joined::of_process(container.first.pid()).map_err(|_| Error::ExecStopped)?;
    let mappings = plan.spec.linux().as_ref().and_then(|l| l.uid_mappings().as_deref());
    let owner = outside(mappings, process.given.user().uid()).map(Uid::from_raw);
    let (ends, inherited) = Ends::open(streams, owner).map_err(step("open the process's pipes"))?;
    let (channel, child_channel) = sync::pair(inherited.first_free()).map_err(step("open a socket to the process"))?;
    let program = Program {
        process,
        seccomp: plan.seccomp.as_ref(),
        keyring: container.keyring.as_ref(),
        personality: plan.personality,
        channel: child_channel,
        inherited,
        size: ends::first_size(process, stdio.terminal_size.as_ref()),
    };
    let job = Job { program, joined, cpus: affinity::present() };
    let cgroup = container.cgroup.open(sub_cgroup)?;
    let clone = |cgroup: &OwnedFd| namespaces::clone(&Namespaces::default(), &job.joined, None, cgroup.as_fd());
    let cloned = match clone(&cgroup) {
        // Processes cannot be in a cgroup that has handed its controllers down: then it is where the first one went.
        Err(Error::Step { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) && sub_cgroup.is_empty() => {
            clone(&container.cgroup.open_of(container.first.pid())?)?
        }
        Err(Error::Step { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
            return Err(container.cgroup.cannot_join(sub_cgroup, source).into());
        }
        other => other?,
    };
    match cloned {
        sys::Cloned::Child => exec_child::run(&job),
        sys::Cloned::Parent(pid) => Ok(Born { pid, channel, exit: agent.reaper.watch(pid), ends }),
    }
}

struct Supervised {
    container: Arc<Container>,
    id: String,
    process: Arc<Process>,
    report: Report,
}

/// From the clone to execve(2); gives the time of that.
async fn run(supervised: Supervised, mut born: Born, streams: Streams, plan: ProcessPlan) -> Result<u64, Error> {
    let built = birth::raise(&born.channel, &mut born.exit).await;
    let master = built.and_then(|ready| {
        birth::set_limits(&plan, born.pid)?;
        ready.master.map(stdio::master).transpose().map_err(step("watch the terminal"))
    });
    let container = supervised.container.clone();
    let (master, failed) = match master {
        Ok(master) => (master, None),
        Err(error) => {
            let _ = supervised.process.signal(Signal::KILL);
            (None, Some(error))
        }
    };
    supervised.process.set_master(master.clone());
    let flushed = ends::forward(born.ends, streams, master, Some(supervised.process.exit()));
    tokio::spawn(supervise(supervised, born.exit, flushed));
    let result = match failed {
        Some(error) => Err(error),
        None => execute(&born.channel).await.and_then(|at| at.ok_or(Error::Died(0))),
    };
    match result {
        Err(Error::Died(_)) if container.first.has_exited() => Err(Error::ExecStopped),
        other => other,
    }
}

/// From the exit of the process to the reply that tells of it.
async fn supervise(
    supervised: Supervised,
    exit: tokio::sync::oneshot::Receiver<crate::reaper::Exit>,
    flushed: ends::Flushed,
) {
    let Supervised { container, id, process, report } = supervised;
    let Some(exit) = report.reaped(exit).await else { return };
    for sent in flushed {
        let _ = sent.await;
    }
    process.set_master(None);
    container.execs.ended(&id);
    report.ended(End { exit, oom_kills: container.cgroup.oom_killed() });
}
