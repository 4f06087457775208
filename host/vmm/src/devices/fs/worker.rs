//! The threads that answer requests.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::request;
use super::server::FileServer;
use crate::devices::{Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;
use crate::{ThreadKind, ThreadStart};

/// A queue that workers serve, from activation to reset.
pub struct ActiveQueue {
    queue: Mutex<Queue>,
    kick: EventFd,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    stop: AtomicBool,
    serving: Mutex<usize>,
    left: Condvar,
}

impl ActiveQueue {
    /// A queue whose `kick` is a blocking eventfd with EFD_SEMAPHORE.
    pub fn new(queue: Queue, kick: EventFd, memory: Arc<GuestMemory>, interrupt: Arc<Interrupt>) -> Self {
        ActiveQueue {
            queue: Mutex::new(queue),
            kick,
            memory,
            interrupt,
            stop: AtomicBool::new(false),
            serving: Mutex::new(0),
            left: Condvar::new(),
        }
    }

    /// Makes every worker leave the queue and waits for them: after a reset the device touches it no more (virtio 1.2, 2.1.2).
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let mut serving = lock(&self.serving);
        if let Err(err) = self.kick.write(*serving as u64) {
            log::error!("fs: cannot wake the workers: {err}");
            return;
        }
        while *serving > 0 {
            serving = self.left.wait(serving).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn enter(&self) {
        *lock(&self.serving) += 1;
    }

    fn serve(&self, server: &FileServer) {
        if let Err(err) = self.serve_until_stopped(server) {
            log::warn!("fs: {err}; not served until the device is reset");
            self.interrupt.set_needs_reset();
        }
        *lock(&self.serving) -= 1;
        self.left.notify_all();
    }

    fn serve_until_stopped(&self, server: &FileServer) -> Result<(), QueueError> {
        while !self.stop.load(Ordering::Acquire) {
            match self.pop()? {
                Some(chain) => {
                    let head = chain.head_index();
                    let written = request::answer(server, chain, &self.memory);
                    self.give_back(head, written)?;
                }
                None => sleep_until_kicked(&self.kick)?,
            }
        }
        Ok(())
    }

    /// The next request. If more wait, another worker is woken for them.
    fn pop(&self) -> Result<Option<DescriptorChain<&GuestMemory>>, QueueError> {
        let mut queue = lock(&self.queue);
        let chain = next_chain(&mut queue, &self.memory)?;
        // From here on the driver kicks for the next request, even while this one is being answered.
        let more = queue.enable_notification(self.memory.as_ref())?;
        drop(queue);
        if more {
            self.kick.write(1)?;
        }
        Ok(chain)
    }

    fn give_back(&self, head: u16, written: u32) -> Result<(), QueueError> {
        let mut queue = lock(&self.queue);
        complete(&mut queue, &self.memory, head, written)?;
        notify(&mut queue, &self.memory, &self.interrupt)
    }
}

fn sleep_until_kicked(kick: &EventFd) -> io::Result<()> {
    match kick.read() {
        Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

/// The workers: thread 0 for queue 0, the others for queue 1.
pub struct Workers {
    threads: Vec<Sender<Arc<ActiveQueue>>>,
}

impl Workers {
    /// Starts one thread for queue 0 and `requests` threads for queue 1.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(server: &Arc<FileServer>, requests: usize, on_start: ThreadStart) -> io::Result<Self> {
        let mut threads = Vec::with_capacity(requests + 1);
        for index in 0..=requests {
            let (sender, receiver) = channel();
            let (server, on_start) = (Arc::clone(server), Arc::clone(&on_start));
            std::thread::Builder::new()
                .name(format!("fs{index}"))
                .spawn(move || work(&receiver, &server, &on_start))?;
            threads.push(sender);
        }
        Ok(Workers { threads })
    }

    /// Has the workers of queue `index` serve `active` until [`ActiveQueue::stop`].
    ///
    /// # Errors
    /// When a worker has ended.
    pub fn serve(&self, index: usize, active: &Arc<ActiveQueue>) -> io::Result<()> {
        let threads = if index == 0 { &self.threads[..1] } else { &self.threads[1..] };
        for thread in threads {
            active.enter();
            thread.send(Arc::clone(active)).map_err(|_| io::Error::other("a file system worker has ended"))?;
        }
        Ok(())
    }
}

fn work(active: &Receiver<Arc<ActiveQueue>>, server: &FileServer, on_start: &ThreadStart) {
    // virtiofsd changes the working directory for xattr calls: each thread needs one of its own.
    if let Err(err) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS) {
        log::error!("fs: unshare(CLONE_FS) failed: {err}");
        return;
    }
    on_start(ThreadKind::Fs);
    while let Ok(active) = active.recv() {
        active.serve(server);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
