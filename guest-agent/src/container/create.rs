//! CreateContainer, the agent's side.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_protocol::agent::{CreateContainerRequest, Stdio, TerminalSize};
use rustix::fs::{Mode, OFlags, Uid, fchown};
use rustix::process::Pid;
use rustix::termios::Winsize;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_vsock::VsockStream;

use super::child::{self, Job};
use super::namespaces::{self, Joined};
use super::sync::{self, Channel, FromChild, ToChild};
use super::{Container, End, Error, identity, step, winsize};
use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::process::limits;
use crate::reaper::Exit;
use crate::spec::Plan;
use crate::{stdio, sys};

/// What the reply tells.
pub struct Created {
    /// When the root file system was in place.
    pub mounted_ns: u64,
    /// The first process, in the guest's pid namespace.
    pub pid: i32,
}

/// Makes a container whose process waits for Start.
pub async fn create(agent: &Arc<Agent>, request: CreateContainerRequest) -> Result<Created, Error> {
    let id = request.container_id;
    check_id(&id)?;
    let plan = Plan::new(&request.spec_json)?;
    let stdio = request.stdio.into_option().unwrap_or_default();
    check_stdio(&stdio, plan.terminal())?;
    agent.containers.reserve(&id)?;
    let result = build(agent, &id, &plan, &stdio).await;
    match result {
        Ok((container, mounted_ns)) => {
            let pid = container.pid.as_raw_pid();
            agent.containers.put(&id, Some(container));
            Ok(Created { mounted_ns, pid })
        }
        Err(error) => {
            agent.containers.put(&id, None);
            Err(error)
        }
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(allowed) {
        return Err(Error::Id(id.chars().take(100).collect()));
    }
    Ok(())
}

fn check_stdio(stdio: &Stdio, terminal: bool) -> Result<(), Error> {
    let pipes = [stdio.stdin_token, stdio.stdout_token, stdio.stderr_token];
    match (terminal, stdio.terminal_token != 0, pipes.iter().any(|t| *t != 0)) {
        (true, _, true) => Err(Error::Stdio("a process with a terminal has no other streams")),
        (false, true, _) => Err(Error::Stdio("terminal_token is set, and process.terminal is not")),
        _ => Ok(()),
    }
}

async fn build(agent: &Arc<Agent>, id: &str, plan: &Plan, stdio: &Stdio) -> Result<(Arc<Container>, u64), Error> {
    let streams = Streams::claim(agent, stdio).await?;
    let sources = plan.mounts.iter().filter(|m| m.options.bind || m.fs_type == "bind").map(|m| m.source.as_path());
    let joined = plan.namespaces.joined.iter().map(|(_, path)| path.as_path());
    agent.containers.mount_share([plan.root()].into_iter().chain(sources).chain(joined)).await?;
    let (cgroup, cgroup_fd) = Cgroup::create(id, plan.spec.linux().as_ref())?;
    let born = match give_birth(agent, plan, &streams, stdio, (&cgroup, cgroup_fd)) {
        Ok(born) => born,
        Err(error) => {
            cgroup.remove();
            return Err(error);
        }
    };
    let Born { pid, channel, mut exit, ends } = born;
    let ready = match raise(plan, pid, &channel, &mut exit).await {
        Ok(ready) => ready,
        Err(error) => {
            abandon(&cgroup, exit).await;
            return Err(error);
        }
    };
    let master = match ready.master.map(stdio::master).transpose() {
        Ok(master) => master,
        Err(error) => {
            abandon(&cgroup, exit).await;
            return Err(step("watch the terminal")(error));
        }
    };
    let mut forwarders = ends.forward(streams.pipes);
    if let (Some(master), Some(host)) = (&master, streams.terminal) {
        forwarders.push(tokio::spawn(stdio::terminal(master.clone(), host)));
    }
    let (exited_sender, exited) = watch::channel(None);
    let (ended_sender, ended) = watch::channel(None);
    let container = Arc::new(Container {
        id: id.to_owned(),
        pid,
        cgroup,
        channel: Mutex::new(Some(channel)),
        master: Mutex::new(master),
        exited,
        ended,
    });
    tokio::spawn(supervise(agent.clone(), container.clone(), exit, forwarders, exited_sender, ended_sender));
    Ok((container, ready.mounted_ns))
}

/// The host's side of stdio.
struct Streams {
    pipes: [Option<VsockStream>; 3],
    terminal: Option<VsockStream>,
}

impl Streams {
    async fn claim(agent: &Agent, stdio: &Stdio) -> Result<Streams, Error> {
        let claim = async |token| match token {
            0 => Ok(None),
            token => agent.streams.claim(token).await.map(Some),
        };
        let (input, output, error, terminal) = tokio::try_join!(
            claim(stdio.stdin_token),
            claim(stdio.stdout_token),
            claim(stdio.stderr_token),
            claim(stdio.terminal_token)
        )?;
        Ok(Streams { pipes: [input, output, error], terminal })
    }
}

/// The agent's side of the container's pipes.
#[derive(Default)]
struct Ends {
    input: Option<pipe::Sender>,
    outputs: [Option<pipe::Receiver>; 2],
}

impl Ends {
    /// Pipes where there are streams for them, /dev/null elsewhere.
    fn open(streams: &Streams, owner: Option<Uid>) -> io::Result<(Ends, [OwnedFd; 3])> {
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let mut ends = Ends::default();
        let own = |fd: OwnedFd| -> io::Result<OwnedFd> {
            // So that the user can open /proc/self/fd/1 anew.
            fchown(&fd, owner, None)?;
            Ok(fd)
        };
        let input = match streams.pipes[0] {
            Some(_) => {
                let (end, inherited) = stdio::input()?;
                ends.input = Some(end);
                own(inherited.0)?
            }
            None => null()?,
        };
        let mut output = |index: usize| -> io::Result<OwnedFd> {
            if streams.pipes[index + 1].is_none() {
                return Ok(null()?);
            }
            let (end, inherited) = stdio::output()?;
            ends.outputs[index] = Some(end);
            own(inherited.0)
        };
        let (out, error) = (output(0)?, output(1)?);
        Ok((ends, [input, out, error]))
    }

    /// Starts all directions; gives the tasks that end when all output has been sent.
    fn forward(self, streams: [Option<VsockStream>; 3]) -> Vec<JoinHandle<()>> {
        let [input, out, error] = streams;
        if let (Some(host), Some(end)) = (input, self.input) {
            tokio::spawn(stdio::feed(host, end));
        }
        let pairs = self.outputs.into_iter().zip([out, error]);
        pairs.filter_map(|(end, host)| Some(tokio::spawn(stdio::drain(end?, host?)))).collect()
    }
}

struct Born {
    pid: Pid,
    channel: Channel,
    exit: oneshot::Receiver<Exit>,
    ends: Ends,
}

/// The clone. No await between it and [`crate::reaper::Reaper::watch`].
fn give_birth(
    agent: &Agent,
    plan: &Plan,
    streams: &Streams,
    stdio: &Stdio,
    cgroup: (&Cgroup, OwnedFd),
) -> Result<Born, Error> {
    let linux = plan.spec.linux().as_ref();
    let joined = Joined::open(&plan.namespaces)?;
    let mappings = linux.and_then(|l| l.uid_mappings().as_deref());
    let owner = identity::outside(mappings, plan.process().user().uid()).map(Uid::from_raw);
    let (ends, inherited) = Ends::open(streams, owner).map_err(step("open the container's pipes"))?;
    let (channel, child_channel) = sync::pair().map_err(step("open a socket to the container's process"))?;
    let size = first_size(plan, stdio.terminal_size.as_ref());
    let (cgroup, cgroup_fd) = cgroup;
    let cgroup_path = cgroup.path().to_owned();
    let job = Job { plan, channel: child_channel, stdio: inherited, joined, cgroup: cgroup_path, size };
    match namespaces::clone(&plan.namespaces, &job.joined, linux, cgroup_fd.as_fd())? {
        sys::Cloned::Child => child::run(&job),
        sys::Cloned::Parent(pid) => Ok(Born { pid, channel, exit: agent.reaper.watch(pid), ends }),
    }
}

fn first_size(plan: &Plan, given: Option<&TerminalSize>) -> Winsize {
    if let Some(size) = given.filter(|s| s.rows != 0 || s.columns != 0) {
        return winsize(size.rows, size.columns);
    }
    let cut = |n: u64| n.min(u64::from(u16::MAX)) as u32;
    plan.process().console_size().map_or(winsize(0, 0), |size| winsize(cut(size.height()), cut(size.width())))
}

struct Ready {
    mounted_ns: u64,
    master: Option<OwnedFd>,
}

/// Does for the child what it cannot do itself, lets it go, and waits until it is built.
async fn raise(plan: &Plan, pid: Pid, channel: &Channel, exit: &mut oneshot::Receiver<Exit>) -> Result<Ready, Error> {
    prepare(plan, pid)?;
    let talk = |e| step("talk to the container's process")(e);
    // A child that failed already has said why: that is read below.
    let _ = channel.send(ToChild::Go).await;
    match channel.receive().await.map_err(talk)? {
        Some((FromChild::Ready { mounted_ns }, master)) => Ok(Ready { mounted_ns, master }),
        Some((FromChild::Failed(failure), _)) => Err(Error::Child(failure)),
        Some((FromChild::Executing, _)) => Err(talk(io::ErrorKind::InvalidData.into())),
        None => Err(Error::Died(exit.await.map_or(0, |e| e.status))),
    }
}

fn prepare(plan: &Plan, pid: Pid) -> Result<(), Error> {
    let linux = plan.spec.linux().as_ref();
    let proc = |file: &str| Path::new("/proc").join(pid.as_raw_pid().to_string()).join(file);
    let write = |file: &str, text: String| {
        fs::write(proc(file), &text).map_err(step::<io::Error>(format!("write {:?} to {file}", text.trim_end())))
    };
    if plan.namespaces.is_new(libc::CLONE_NEWUSER) {
        let map = |m: Option<&[_]>| identity::map_text(m.unwrap_or_default());
        write("uid_map", map(linux.and_then(|l| l.uid_mappings().as_deref())))?;
        write("gid_map", map(linux.and_then(|l| l.gid_mappings().as_deref())))?;
    }
    if let Some(value) = plan.process().oom_score_adj() {
        write("oom_score_adj", value.to_string())?;
    }
    let rlimits = plan.process().rlimits().as_deref().unwrap_or_default();
    limits::apply(pid, rlimits).map_err(|(kind, e)| step::<io::Error>(format!("set {kind}"))(e))
}

/// Removes what a failed creation has left.
async fn abandon(cgroup: &Cgroup, mut exit: oneshot::Receiver<Exit>) {
    if let Err(error) = cgroup.kill() {
        log::warn!("cannot kill what a failed creation left: {error}");
    }
    if exit.try_recv().is_err() {
        let _ = exit.await;
    }
    cgroup.remove();
}

/// From the exit of the first process to the end of the container.
async fn supervise(
    agent: Arc<Agent>,
    container: Arc<Container>,
    exit: oneshot::Receiver<Exit>,
    forwarders: Vec<JoinHandle<()>>,
    exited: watch::Sender<Option<Exit>>,
    ended: watch::Sender<Option<End>>,
) {
    let Ok(exit) = exit.await else { return };
    let _ = exited.send(Some(exit));
    // With the first process the container ends. What it left running would hold its pipes open.
    if let Err(error) = container.cgroup.kill() {
        log::warn!("cannot kill what container {:?} left running: {error}", container.id);
    }
    for forwarder in forwarders {
        let _ = forwarder.await;
    }
    agent.containers.sync(&agent).await;
    let oom_killed = container.cgroup.oom_killed();
    container.cgroup.remove();
    container.close();
    let _ = ended.send(Some(End { exit, oom_killed }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_their_directory() {
        for id in ["a", "A_b+c-d.e", "0", "..."] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        assert!(check_id(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn tokens_fit_the_terminal() {
        let pipes = Stdio { stdout_token: 1, ..Default::default() };
        let terminal = Stdio { terminal_token: 1, ..Default::default() };
        assert!(check_stdio(&pipes, false).is_ok());
        assert!(check_stdio(&pipes, true).is_err());
        assert!(check_stdio(&terminal, true).is_ok());
        assert!(check_stdio(&terminal, false).is_err());
        assert!(check_stdio(&Stdio::default(), true).is_ok());
    }
}
