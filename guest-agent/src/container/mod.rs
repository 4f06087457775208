//! Containers: from the call that makes one to the reply that says how it ended.

mod birth;
mod child;
mod containers;
mod create;
mod disks;
mod ends;
mod error;
mod exec;
mod exec_child;
mod execs;
mod hooks;
mod interfaces;
mod list;
mod namespaces;
mod network;
mod preserved;
mod process;
mod program;
mod sync;
mod watched;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

pub use containers::Containers;
pub use create::check_request;
pub use create::create;
pub use ends::{first_size, winsize};
pub use error::Error;
pub use exec::{check_exec, exec};
pub use list::list;
pub use process::Process;

use crate::cgroup::Cgroup;
use crate::network::Established;
use crate::notify::Notify;
use crate::process::keyring::Keyring;
use crate::sockets::Serving;
use crate::spec::Plan;
use crate::sys;
use disks::Disks;
use error::step;
use execs::Execs;
use sync::{Channel, FromChild, ToChild};

/// A container that has, or had, a process.
pub struct Container {
    id: String,
    plan: Plan,
    disks: Disks,
    first: Process,
    execs: Execs,
    cgroup: Cgroup,
    keyring: Option<Keyring>,
    /// What UpdateNetwork has set up.
    network: Mutex<Established>,
    /// Taken by Start.
    channel: Mutex<Option<Channel>>,
    /// Those of the host's that it has.
    sockets: Mutex<Option<Serving>>,
    /// Where it says that it is ready.
    notify: Option<Notify>,
}

impl Container {
    /// Lets the prepared process execute; gives the time when it had. With `notify` it can say when it is ready.
    pub async fn start(&self, notify: bool) -> Result<u64, Error> {
        if notify {
            let place = self.notify.as_ref().ok_or(Error::NoNotify)?;
            place.open().map_err(step("make the socket for sd_notify"))?;
        }
        self.check_sysctls()?;
        let not_created = |state| Error::NotCreated { id: self.id.clone(), state };
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        let channel = channel.ok_or_else(|| not_created("was started before"))?;
        if self.first.has_exited() {
            return Err(not_created("has ended"));
        }
        execute(&channel).await?.ok_or_else(|| not_created("has ended"))
    }

    /// Waits until the container has said that it is ready, or has ended: what it said.
    pub async fn ready(&self) -> Option<Vec<u8>> {
        self.notify.as_ref()?.ready(self.exited()).await
    }

    /// The first process, or the exec'd one with this id.
    pub fn process(&self, exec_id: &str) -> Result<Found<'_>, Error> {
        if exec_id.is_empty() {
            return Ok(Found::First(&self.first));
        }
        self.execs.get(exec_id).map(Found::Exec).ok_or_else(|| Error::NoProcess(exec_id.to_owned()))
    }

    /// Sends a signal to the first process, or to the exec'd one with this id. Whoever asked for one that is being made may be gone: its
    /// proxy's end kills it, then too.
    pub fn signal(&self, exec_id: &str, signal: Signal) -> Result<(), Error> {
        if signal == Signal::KILL && self.execs.kill_unmade(exec_id) {
            return Ok(());
        }
        self.process(exec_id)?.signal(signal)
    }

    /// Sends a signal to all processes. When there are none, all is done.
    pub fn signal_all(&self, signal: Signal) -> Result<(), Error> {
        if self.first.has_exited() && !self.cgroup.populated() {
            return Ok(());
        }
        let sent = match signal {
            Signal::KILL => self.cgroup.kill(),
            _ => self.cgroup.signal(signal),
        };
        sent.map_err(step::<io::Error>(format!("send signal {}", signal.as_raw())))
    }

    /// Freezes all processes.
    pub async fn pause(&self) -> Result<(), Error> {
        if self.first.has_exited() {
            return Err(Error::NotRunning);
        }
        Ok(self.cgroup.freeze().await?)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), Error> {
        if self.first.has_exited() {
            return Err(Error::NotRunning);
        }
        if !self.cgroup.freezing() {
            return Err(Error::NotPaused);
        }
        Ok(self.cgroup.thaw()?)
    }

    /// Changes the limits.
    pub fn update(&self, resources_json: &[u8]) -> Result<(), Error> {
        if self.first.has_exited() {
            return Err(Error::NotRunning);
        }
        let mut resources = serde_json::from_slice(resources_json).map_err(Error::Resources)?;
        self.disks.translate_rules(&mut resources);
        Ok(self.cgroup.update(&resources)?)
    }

    /// What the container uses, as the JSON of [`agent_protocol::stats::Stats`].
    pub fn stats(&self) -> Result<Vec<u8>, Error> {
        if self.first.has_exited() {
            return Err(Error::NotRunning);
        }
        let mut stats = self.cgroup.stats();
        stats.network_interfaces = match self.plan.namespaces.is_own(libc::CLONE_NEWNET) {
            true => interfaces::of_process(self.first.pid()).unwrap_or_default(),
            false => Vec::new(),
        };
        serde_json::to_vec(&stats).map_err(|e| step("write statistics")(io::Error::from(e)))
    }

    /// Returns when the OOM killer has ended more processes than `seen`, or when the container has ended: how many by now, and
    /// whether it has.
    pub async fn wait_oom(&self, seen: u64) -> Result<(u64, bool), Error> {
        let more = async {
            match self.cgroup.oom_kills() {
                Ok(mut kills) => kills.more_than(seen).await,
                Err(error) => Err(error),
            }
        };
        tokio::select! {
            end = self.first.wait() => Ok((end?.oom_kills, true)),
            // The files of a cgroup that is being removed cannot be read: then the end is near.
            more = more => match more {
                Ok(count) => Ok((count, false)),
                Err(_) if self.first.has_exited() => Ok((self.first.wait().await?.oom_kills, true)),
                Err(error) => Err(step("watch for want of memory")(error)),
            },
        }
    }

    /// Closes what nobody needs after the end.
    async fn close(&self) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.first.set_master(None);
        self.notify.as_ref().inspect(|notify| notify.close());
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sockets) = sockets {
            sockets.finish().await;
        }
    }
}

/// A process of a container, by name.
pub enum Found<'a> {
    /// The first.
    First(&'a Process),
    /// An exec'd one.
    Exec(Arc<Process>),
}

impl Found<'_> {
    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match (self.signal_if_there(signal)?, self) {
            (true, _) => Ok(()),
            (false, Found::First(_)) => Err(Error::NotRunning),
            (false, Found::Exec(_)) => Err(Error::Finished),
        }
    }

    fn signal_if_there(&self, signal: Signal) -> Result<bool, Error> {
        self.process().signal(signal)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        match self {
            Found::First(process) => process,
            Found::Exec(process) => process,
        }
    }
}

/// A signal by number.
pub fn signal_by_number(number: u32) -> Result<Signal, Error> {
    i32::try_from(number).ok().and_then(sys::signal).ok_or(Error::Signal(number))
}

/// Tells a built process to execute; gives the time when it had, or None when it died first.
async fn execute(channel: &Channel) -> Result<Option<u64>, Error> {
    if channel.send(ToChild::Start).await.is_err() {
        return Ok(None);
    }
    let mut executing = false;
    loop {
        match channel.receive().await.map_err(step("start the container's process"))? {
            Some((FromChild::Executing, _)) => executing = true,
            Some((FromChild::Failed(failure), _)) => return Err(Error::Child(failure)),
            Some((FromChild::Ready { .. }, _)) => {}
            // The descriptor was closed: by a successful execve(2), or by death.
            None if executing => return Ok(Some(crate::rpc::now_ns())),
            None => return Ok(None),
        }
    }
}
