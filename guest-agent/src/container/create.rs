//! CreateContainer, the agent's side.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_protocol::agent::{CreateContainerRequest, HostSockets, Stdio};
use agent_protocol::{CONTAINERS_DIR, NOTIFY_DIR};
use rustix::fs::Uid;
use rustix::mount::MountFlags;
use tokio::sync::oneshot;

use super::birth::{self, Born};
use super::child::{self, Job};
use super::disks::Disks;
use super::ends::{self, Ends, Streams};
use super::execs::Execs;
use super::hooks::State;
use super::namespaces::{self, Joined};
use super::process::{End, Process, Report};
use super::program::Program;
use super::{Container, Error, step, sync};
use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::mappings::outside;
use crate::mounts::Prepared;
use crate::notify::Notify;
use crate::process::keyring::Keyring;
use crate::reaper::Exit;
use crate::sockets::{self, Sockets};
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
    let (mut plan, state) = check_request(&request)?;
    find_joined(agent, &mut plan)?;
    let disks = Disks::find(&request.block_devices)?;
    disks.translate(&mut plan.spec);
    let keyring = if request.no_new_keyring { None } else { keyring(&request.container_id, &plan) };
    let id = request.container_id;
    let stdio = request.stdio.into_option().unwrap_or_default();
    let sockets = request.sockets.into_option().unwrap_or_default();
    agent.containers.reserve(&id)?;
    let result = match Places::make(agent, &id, &sockets, request.notify).await {
        Ok(places) => build(agent, &id, (plan, disks), keyring, &stdio, (state, places)).await,
        Err(error) => Err(error),
    };
    match result {
        Ok((container, mounted_ns)) => {
            let pid = container.first.pid().as_raw_pid();
            agent.containers.put(&id, Some(container));
            Ok(Created { mounted_ns, pid })
        }
        Err(error) => {
            agent.containers.put(&id, None);
            Err(error)
        }
    }
}

fn keyring(id: &str, plan: &Plan) -> Option<Keyring> {
    Keyring::of(id, plan.namespaces.is_own(libc::CLONE_NEWUSER))
}

/// Puts the namespaces' own paths in the place of those that name a container.
fn find_joined(agent: &Agent, plan: &mut Plan) -> Result<(), Error> {
    for (flag, path) in &mut plan.namespaces.joined {
        if let Ok(id) = path.strip_prefix(CONTAINERS_DIR) {
            let container = agent.containers.get(&id.to_string_lossy())?;
            *path = container.namespace_path(*flag)?;
            if *flag == libc::CLONE_NEWUSER {
                container.plan.lend_mappings(&container.id, &mut plan.spec)?;
            }
        }
    }
    Ok(())
}

/// All that can be said before anything is made.
pub fn check_request(request: &CreateContainerRequest) -> Result<(Plan, State), Error> {
    check_id(&request.container_id)?;
    let plan = Plan::new(&request.spec_json)?;
    let state = State::new(&request.state_json).map_err(Error::State)?;
    ends::check(request.stdio.as_ref().unwrap_or_default(), plan.process.terminal())?;
    sockets::check(request.sockets.as_ref().unwrap_or_default())?;
    Ok((plan, state))
}

/// Ids of containers and of exec'd processes name directories, on the host at least.
pub fn check_id(id: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(allowed) {
        return Err(Error::Id(id.chars().take(100).collect()));
    }
    Ok(())
}

/// What the container's bind mounts need that is the agent's own. Gone with this.
struct Places {
    sockets: Option<Sockets>,
    notify: Option<Notify>,
}

impl Places {
    async fn make(agent: &Agent, id: &str, sockets: &HostSockets, notify: bool) -> Result<Places, Error> {
        let notify = notify.then(|| Notify::make(id)).transpose();
        let notify = notify.map_err(step(format!("make a directory in {NOTIFY_DIR}")))?;
        Ok(Places { sockets: Sockets::open(agent, id, sockets).await?, notify })
    }
}

async fn build(
    agent: &Arc<Agent>,
    id: &str,
    (plan, disks): (Plan, Disks),
    keyring: Option<Keyring>,
    stdio: &Stdio,
    (state, places): (State, Places),
) -> Result<(Arc<Container>, u64), Error> {
    let streams = Streams::claim(agent, stdio).await?;
    let sources = plan.mounts.iter().filter(|m| m.options.bind || m.fs_type == "bind").map(|m| m.source.as_path());
    let joined = plan.namespaces.joined.iter().map(|(_, path)| path.as_path());
    agent.containers.mount_share([plan.root()].into_iter().chain(sources).chain(joined)).await?;
    let (cgroup, cgroup_fd) = Cgroup::create(id, plan.spec.linux().as_ref())?;
    if let Some(Err(error)) = cgroup_owner(&plan).map(|uid| cgroup.give_to(uid)) {
        cgroup.remove();
        return Err(error.into());
    }
    let born = match give_birth(agent, (&plan, keyring.as_ref()), &streams, stdio, (&cgroup, cgroup_fd), state) {
        Ok(born) => born,
        Err(error) => {
            cgroup.remove();
            return Err(error);
        }
    };
    let Born { pid, channel, mut exit, ends } = born;
    let raised = match birth::map_ids(&plan, pid) {
        Ok(()) => birth::raise(&channel, &mut exit).await,
        Err(error) => Err(error),
    };
    let ready = raised.and_then(|ready| {
        birth::set_limits(&plan.process, pid)?;
        let master = ready.master.map(stdio::master).transpose().map_err(step("watch the terminal"))?;
        Ok((ready.mounted_ns, master))
    });
    let (mounted_ns, master) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            abandon(&cgroup, exit).await;
            return Err(error);
        }
    };
    let (first, report) = Process::new(pid);
    first.set_master(master.clone());
    let flushed = ends::forward(ends, streams, master, None);
    let channel = Mutex::new(Some(channel));
    let container = Arc::new(Container {
        id: id.to_owned(),
        plan,
        disks,
        first,
        execs: Execs::default(),
        cgroup,
        keyring,
        network: Mutex::default(),
        channel,
        sockets: Mutex::new(places.sockets.map(|sockets| sockets.serve(agent.clone()))),
        notify: places.notify,
    });
    tokio::spawn(supervise(agent.clone(), container.clone(), exit, flushed, report));
    Ok((container, mounted_ns))
}

/// Whose the container's cgroup is to be ("Cgroup ownership" of config-linux.md): its user's, where it can see and write it. Root's it is
/// anyway.
fn cgroup_owner(plan: &Plan) -> Option<u32> {
    let writable = plan.mounts.iter().any(|mount| {
        matches!(mount.fs_type.as_str(), "cgroup" | "cgroup2")
            && mount.destination == Path::new("/sys/fs/cgroup")
            && !mount.options.flags.contains(MountFlags::RDONLY)
    });
    if !writable || !plan.namespaces.is_own(libc::CLONE_NEWCGROUP) {
        return None;
    }
    let mappings = plan.spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref());
    outside(mappings, plan.process.given.user().uid()).filter(|uid| *uid != 0)
}

/// The clone. No await between it and [`crate::reaper::Reaper::watch`].
fn give_birth(
    agent: &Agent,
    (plan, keyring): (&Plan, Option<&Keyring>),
    streams: &Streams,
    stdio: &Stdio,
    cgroup: (&Cgroup, OwnedFd),
    state: State,
) -> Result<Born, Error> {
    let linux = plan.spec.linux().as_ref();
    let joined = Joined::open(&plan.namespaces)?;
    let prepared = Prepared::new(plan)?;
    let mappings = linux.and_then(|l| l.uid_mappings().as_deref());
    let owner = outside(mappings, plan.process.given.user().uid()).map(Uid::from_raw);
    let (ends, inherited) = Ends::open(streams, owner).map_err(step("open the container's pipes"))?;
    let (channel, child_channel) =
        sync::pair(inherited.first_free()).map_err(step("open a socket to the container's process"))?;
    let program = Program {
        process: &plan.process,
        seccomp: plan.seccomp.as_ref(),
        keyring,
        personality: plan.personality,
        channel: child_channel,
        inherited,
        size: ends::first_size(&plan.process, stdio.terminal_size.as_ref()),
    };
    let (cgroup, cgroup_fd) = cgroup;
    let job = Job { plan, program, joined, cgroup: cgroup.path().to_owned(), prepared, state };
    match namespaces::clone(&plan.namespaces, &job.joined, linux, cgroup_fd.as_fd())? {
        sys::Cloned::Child => child::run(&job),
        sys::Cloned::Parent(pid) => Ok(Born { pid, channel, exit: agent.reaper.watch(pid), ends }),
    }
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
    flushed: ends::Flushed,
    report: Report,
) {
    let Some(exit) = report.reaped(exit).await else { return };
    // With the first process the container ends. What it left running would hold its pipes open.
    if let Err(error) = container.cgroup.kill() {
        log::warn!("cannot kill what container {:?} left running: {error}", container.id);
    }
    for sent in flushed {
        let _ = sent.await;
    }
    agent.containers.sync(&agent).await;
    let oom_kills = container.cgroup.oom_killed();
    container.cgroup.emptied().await;
    container.cgroup.remove();
    // Nobody is left who could send more.
    container.close().await;
    if agent.containers.some_live() {
        container.leave_network();
        agent.containers.forget_files(&agent, &container.plan);
    }
    report.ended(End { exit, oom_kills });
    agent.containers.ended(&container);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cgroup_that_can_be_written_is_its_users() {
        let owner = |uid: u32, options: &[&str], namespaces: &[&str]| {
            let spec = json!({
                "ociVersion": "1.2.0",
                "process": { "user": { "uid": uid, "gid": 0 }, "args": ["a"], "cwd": "/" },
                "root": { "path": "/r" },
                "mounts": [{ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options }],
                "linux": { "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
                    "uidMappings": namespaces.contains(&"user").then(|| json!([{ "containerID": 0, "hostID": 1000, "size": 10 }])) }
            });
            cgroup_owner(&Plan::new(spec.to_string().as_bytes()).unwrap())
        };
        assert_eq!(owner(5, &["rw"], &["mount", "cgroup"]), Some(5));
        assert_eq!(owner(5, &[], &["mount", "cgroup", "user"]), Some(1005));
        assert_eq!(owner(0, &["rw"], &["mount", "cgroup", "user"]), Some(1000));
        // Root's, not to be written, with other cgroups in sight, a user who is not mapped.
        assert_eq!(owner(0, &["rw"], &["mount", "cgroup"]), None);
        assert_eq!(owner(5, &["ro"], &["mount", "cgroup"]), None);
        assert_eq!(owner(5, &["rw"], &["mount"]), None);
        assert_eq!(owner(50, &["rw"], &["mount", "cgroup", "user"]), None);
    }

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
}
