//! Containers: from the call that makes one to the reply that says how it ended.

mod child;
mod create;
mod identity;
mod namespaces;
mod sync;

use agent_protocol::Plain;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_protocol::SHARE_DIR;
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::watch;
use ttrpc::Code;

pub use create::create;

use crate::agent::Agent;
use crate::cgroup::{self, Cgroup};
use crate::reaper::Exit;
use crate::stdio::Master;
use crate::{spec, streams, sys};
use sync::{Channel, Failure, FromChild, ToChild};

/// A call about a container that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An id that cannot name a directory.
    #[error("container id {0:?} is invalid: it must be 1 to 1024 letters, digits or `_+-.`, and not `.` or `..`")]
    Id(String),
    /// No such container.
    #[error("container {0:?} does not exist")]
    Unknown(String),
    /// Made before.
    #[error("container {0:?} already exists")]
    Exists(String),
    /// The guest is about to end.
    #[error("the guest is shutting down")]
    Ending,
    /// config.json.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// Its streams.
    #[error(transparent)]
    Streams(#[from] streams::Error),
    /// Tokens that do not fit process.terminal.
    #[error("stdio: {0}")]
    Stdio(&'static str),
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The child said why.
    #[error("{}", .0.message)]
    Child(Failure),
    /// The child said nothing.
    #[error("the container's process ended before it was ready (status {0})")]
    Died(u32),
    /// Started before, or dead.
    #[error("container {id:?} is not in the state created: it {state}")]
    NotCreated {
        /// Its id.
        id: String,
        /// A verb.
        state: &'static str,
    },
    /// Words that containerd's shim looks for.
    #[error("container not running")]
    NotRunning,
    /// No such signal.
    #[error("signal {0} does not exist")]
    Signal(u32),
    /// Resize without a terminal.
    #[error("container {0:?} has no terminal")]
    NoTerminal(String),
    /// One of the agent's own steps.
    #[error("cannot {step}: {}", Plain(source))]
    Step {
        /// A verb and its object.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The code that the reply carries.
    pub fn code(&self) -> Code {
        match self {
            Error::Id(_) | Error::Spec(_) | Error::Stdio(_) | Error::Signal(_) => Code::INVALID_ARGUMENT,
            Error::Cgroup(cgroup::Error::Path(_) | cgroup::Error::Resource { .. }) => Code::INVALID_ARGUMENT,
            Error::Unknown(_) => Code::NOT_FOUND,
            Error::Exists(_) => Code::ALREADY_EXISTS,
            Error::Ending => Code::UNAVAILABLE,
            Error::Streams(_) => Code::DEADLINE_EXCEEDED,
            Error::NotCreated { .. } | Error::NotRunning | Error::NoTerminal(_) => Code::FAILED_PRECONDITION,
            Error::Child(failure) => failure.kind.code(),
            Error::Cgroup(_) | Error::Died(_) | Error::Step { .. } => Code::INTERNAL,
        }
    }
}

fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Error {
    let step = step.into();
    move |source| Error::Step { step, source: source.into() }
}

/// How a container ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Of its first process.
    pub exit: Exit,
    /// The kernel killed for want of memory.
    pub oom_killed: bool,
}

/// A container that has, or had, a process.
pub struct Container {
    id: String,
    pid: Pid,
    cgroup: Cgroup,
    /// Taken by Start.
    channel: Mutex<Option<Channel>>,
    /// Of its terminal.
    master: Mutex<Option<Master>>,
    /// Set when the process has been reaped; from then on its number means nothing.
    exited: watch::Receiver<Option<Exit>>,
    /// Set when all output has been sent as well.
    ended: watch::Receiver<Option<End>>,
}

impl Container {
    /// Lets the prepared process execute; gives the time when it had.
    pub async fn start(&self) -> Result<u64, Error> {
        let not_created = |state| Error::NotCreated { id: self.id.clone(), state };
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        let channel = channel.ok_or_else(|| not_created("was started before"))?;
        if self.exited.borrow().is_some() {
            return Err(not_created("has ended"));
        }
        let failed = |e| step("start the container's process")(e);
        channel.send(ToChild::Start).await.map_err(|_| not_created("has ended"))?;
        let mut executing = false;
        loop {
            match channel.receive().await.map_err(failed)? {
                Some((FromChild::Executing, _)) => executing = true,
                Some((FromChild::Failed(failure), _)) => return Err(Error::Child(failure)),
                Some((FromChild::Ready { .. }, _)) => {}
                // The descriptor was closed: by a successful execve(2), or by death.
                None if executing => return Ok(crate::rpc::now_ns()),
                None => return Err(not_created("has ended")),
            }
        }
    }

    /// Waits for the end, however often it is asked.
    pub async fn wait(&self) -> Result<End, Error> {
        let mut ended = self.ended.clone();
        let end = *ended.wait_for(Option::is_some).await.map_err(|e| step("wait")(io::Error::other(e)))?;
        end.ok_or(Error::NotRunning)
    }

    /// Sends a signal to the first process or to all.
    pub fn signal(&self, number: u32, all: bool) -> Result<(), Error> {
        let raw = i32::try_from(number).map_err(|_| Error::Signal(number))?;
        let signal = sys::signal(raw).ok_or(Error::Signal(number))?;
        let exited = self.exited.borrow().is_some();
        let failed = |e: io::Error| step(format!("send signal {number}"))(e);
        if all {
            let gone = exited && !self.cgroup.populated();
            return match signal {
                _ if gone => Ok(()),
                Signal::KILL => self.cgroup.kill().map_err(failed),
                _ => self.cgroup.signal(signal).map_err(failed),
            };
        }
        if exited {
            return Err(Error::NotRunning);
        }
        kill_process(self.pid, signal).map_err(|e| failed(e.into()))
    }

    /// Closes what nobody needs after the end.
    fn close(&self) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.master.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Sets the terminal's size.
    pub fn resize(&self, rows: u32, columns: u32) -> Result<(), Error> {
        let master = self.master.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let master = master.ok_or_else(|| Error::NoTerminal(self.id.clone()))?;
        tcsetwinsize(master.get_ref(), winsize(rows, columns)).map_err(step("resize the terminal"))
    }
}

fn winsize(rows: u32, columns: u32) -> Winsize {
    let cut = |n: u32| n.min(u32::from(u16::MAX)) as u16;
    Winsize { ws_row: cut(rows), ws_col: cut(columns), ws_xpixel: 0, ws_ypixel: 0 }
}

/// Every container that this guest has had, by id. An id is used once: the guest lives no longer than its containers.
#[derive(Default)]
pub struct Containers {
    by_id: Mutex<HashMap<String, Option<Arc<Container>>>>,
    ending: std::sync::atomic::AtomicBool,
    share: tokio::sync::Mutex<Option<OwnedFd>>,
}

impl Containers {
    /// The container with this id.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Error> {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.get(id).cloned().flatten().ok_or_else(|| Error::Unknown(id.to_owned()))
    }

    /// Takes the id, so that a second call with it fails while the first is at work.
    fn reserve(&self, id: &str) -> Result<(), Error> {
        if self.ending.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Ending);
        }
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if by_id.contains_key(id) {
            return Err(Error::Exists(id.to_owned()));
        }
        by_id.insert(id.to_owned(), None);
        Ok(())
    }

    fn put(&self, id: &str, container: Option<Arc<Container>>) {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        match container {
            Some(container) => by_id.insert(id.to_owned(), Some(container)),
            None => by_id.remove(id),
        };
    }

    /// Kills all, waits until they have ended and been synced, and unmounts what can be.
    pub async fn end_all(&self, agent: &Agent) {
        self.ending.store(true, std::sync::atomic::Ordering::Relaxed);
        let all: Vec<Arc<Container>> =
            self.by_id.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect();
        for container in &all {
            let _ = container.signal(9, true);
        }
        for container in all {
            // A stream that the host does not read would hold this up for ever.
            if tokio::time::timeout(Duration::from_secs(2), container.wait()).await.is_err() {
                log::warn!("container {:?} did not end in time", container.id);
            }
        }
        self.sync(agent).await;
        if self.share.lock().await.take().is_some()
            && let Err(error) = rustix::mount::unmount(SHARE_DIR, rustix::mount::UnmountFlags::DETACH)
        {
            log::warn!("cannot unmount {SHARE_DIR}: {error}");
        }
    }

    /// Writes to the host what containers have changed in files they had mapped. In a process of its own, as it may take
    /// long and the agent has but one thread.
    async fn sync(&self, agent: &Agent) {
        let share = self.share.lock().await;
        let Some(fd) = share.as_ref() else { return };
        let exit = match sys::clone3(0, None) {
            Ok(sys::Cloned::Child) => sys::exit(i32::from(rustix::fs::syncfs(fd).is_err())),
            Ok(sys::Cloned::Parent(pid)) => agent.reaper.watch(pid),
            Err(error) => return log::error!("cannot sync the shared file system: {error}"),
        };
        if exit.await.is_ok_and(|e| e.status != 0) {
            log::error!("the shared file system could not be synced");
        }
    }

    /// Mounts the share when a path lies in it, once.
    async fn mount_share(&self, mut paths: impl Iterator<Item = &Path>) -> Result<(), Error> {
        let mut share = self.share.lock().await;
        if share.is_some() || !paths.any(|p| p.starts_with(SHARE_DIR)) {
            return Ok(());
        }
        let failed = |e: io::Error| step(format!("mount the share {:?}", agent_protocol::SHARE_TAG))(e);
        std::fs::create_dir_all(SHARE_DIR).map_err(failed)?;
        let flags = rustix::mount::MountFlags::empty();
        let no_data: Option<&std::ffi::CStr> = None;
        rustix::mount::mount(agent_protocol::SHARE_TAG, SHARE_DIR, "virtiofs", flags, no_data)
            .map_err(|e| failed(e.into()))?;
        let open = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        *share = Some(rustix::fs::open(SHARE_DIR, open, rustix::fs::Mode::empty()).map_err(|e| failed(e.into()))?);
        Ok(())
    }
}
