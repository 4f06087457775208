//! The containers of this guest, by id, and the share that they have in common.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use agent_protocol::SHARE_DIR;
use rustix::process::Signal;

use super::{Container, Error, step};
use crate::agent::Agent;
use crate::spec::Plan;
use crate::sys;

/// So many that have ended are remembered, for callers that have yet to ask how: containers of a pod that fail come again and again, each
/// with an id of its own.
const MOST_ENDED: usize = 32;

/// The containers of this guest that have not ended, and the last of those that have, by id.
#[derive(Default)]
pub struct Containers {
    by_id: Mutex<HashMap<String, Option<Arc<Container>>>>,
    /// Oldest first.
    ended: Mutex<VecDeque<Weak<Container>>>,
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
    pub fn reserve(&self, id: &str) -> Result<(), Error> {
        if self.ending.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Error::Ending);
        }
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        // A container that has ended, where the guest lives on for others, may come again.
        let ended = |known: &Option<Arc<Container>>| {
            known.as_ref().is_some_and(|container| container.first.has_exited() && !container.cgroup.populated())
        };
        if by_id.get(id).is_some_and(|known| !ended(known)) {
            return Err(Error::Exists(id.to_owned()));
        }
        by_id.insert(id.to_owned(), None);
        Ok(())
    }

    /// What became of a reserved id.
    pub fn put(&self, id: &str, container: Option<Arc<Container>>) {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        match container {
            Some(container) => by_id.insert(id.to_owned(), Some(container)),
            None => by_id.remove(id),
        };
    }

    /// The container is from now on one of those that may be forgotten.
    pub fn ended(&self, container: &Arc<Container>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(Arc::downgrade(container));
        if ended.len() <= MOST_ENDED {
            return;
        }
        let Some(oldest) = ended.pop_front().and_then(|oldest| oldest.upgrade()) else { return };
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        // Its id may be another's by now.
        if by_id.get(&oldest.id).and_then(Option::as_ref).is_some_and(|known| Arc::ptr_eq(known, &oldest)) {
            by_id.remove(&oldest.id);
        }
    }

    /// Kills all, waits until they have ended and been synced, and unmounts what can be.
    pub async fn end_all(&self, agent: &Agent) {
        self.ending.store(true, std::sync::atomic::Ordering::Relaxed);
        let all: Vec<Arc<Container>> =
            self.by_id.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect();
        for container in &all {
            let _ = container.signal_all(Signal::KILL);
        }
        for container in all {
            // A stream that the host does not read would hold this up for ever.
            if tokio::time::timeout(Duration::from_secs(2), container.first.wait()).await.is_err() {
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
    pub async fn sync(&self, agent: &Agent) {
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

    /// The sum of the limits of memory of those that go on; nothing where one has none.
    pub fn memory_limits(&self) -> Option<u64> {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let live = by_id.values().flatten().filter(|container| !container.first.has_exited());
        live.map(|container| container.cgroup.memory_limit())
            .try_fold(0u64, |sum, limit| Some(sum.saturating_add(limit?)))
    }

    /// Whether some go on.
    pub fn some_live(&self) -> bool {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.values().flatten().any(|container| !container.first.has_exited())
    }

    /// Has the kernel forget the files of a container that has ended: the host would keep them open otherwise, and with them what they are
    /// mounted from. In a process of its own, as it may take long and the agent has but one thread.
    pub fn forget_files(&self, agent: &Agent, plan: &Plan) {
        if !plan.root().starts_with(SHARE_DIR) {
            return;
        }
        match sys::clone3(0, None) {
            Ok(sys::Cloned::Child) => sys::exit(i32::from(std::fs::write("/proc/sys/vm/drop_caches", "2").is_err())),
            Ok(sys::Cloned::Parent(pid)) => drop(agent.reaper.watch(pid)),
            Err(error) => log::debug!("cannot drop what is cached of a container's files: {error}"),
        }
    }

    /// Mounts the share when a path lies in it, once.
    pub async fn mount_share(&self, mut paths: impl Iterator<Item = &Path>) -> Result<(), Error> {
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
