//! The thread that answers a device's requests.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::disk::Disk;
use crate::devices::{Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;
use crate::{ThreadKind, ThreadStart};

/// A queue from activation to reset, as the worker gets it.
pub(super) struct ActiveQueue {
    pub queue: Queue,
    /// A blocking eventfd.
    pub kick: EventFd,
    pub memory: Arc<GuestMemory>,
    pub interrupt: Arc<Interrupt>,
    /// The driver does not flush: what is written must have reached the disk when it is told so (5.2.6.2).
    pub write_through: bool,
}

/// What worker and device share of an active queue.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    left: Mutex<bool>,
    changed: Condvar,
}

/// The way to end what the worker does for a queue.
pub(super) struct Serving {
    kick: EventFd,
    stop: Arc<Stop>,
}

impl Serving {
    /// Has the worker leave the queue and waits for it: after a reset the device touches it no more (virtio 1.2, 2.1.2).
    pub fn stop(self) {
        self.stop.asked.store(true, Ordering::Release);
        if let Err(err) = self.kick.write(1) {
            log::error!("blk: cannot wake the worker: {err}");
            return;
        }
        let mut left = self.stop.left.lock().unwrap_or_else(PoisonError::into_inner);
        while !*left {
            left = self.stop.changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The worker. It ends when this is dropped and its queue is stopped.
pub(super) struct Worker {
    jobs: Sender<(ActiveQueue, Arc<Stop>)>,
}

impl Worker {
    /// Starts the thread, which sleeps until there is a queue. `on_start` runs on it first.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(disk: Disk, on_start: ThreadStart) -> io::Result<Self> {
        let (jobs, receiver) = channel();
        std::thread::Builder::new().name("blk".into()).spawn(move || work(&receiver, &disk, &on_start))?;
        Ok(Worker { jobs })
    }

    /// Has the worker serve `queue` until [`Serving::stop`].
    ///
    /// # Errors
    /// When the thread has ended, or there is no descriptor left.
    pub fn serve(&self, queue: ActiveQueue) -> io::Result<Serving> {
        let serving = Serving { kick: queue.kick.try_clone()?, stop: Arc::default() };
        let ended = |_| io::Error::other("the block device's thread has ended");
        self.jobs.send((queue, Arc::clone(&serving.stop))).map_err(ended)?;
        Ok(serving)
    }
}

fn work(jobs: &Receiver<(ActiveQueue, Arc<Stop>)>, disk: &Disk, on_start: &ThreadStart) {
    on_start(ThreadKind::Blk);
    while let Ok((mut active, stop)) = jobs.recv() {
        if let Err(err) = serve(&mut active, disk, &stop.asked) {
            log::warn!("blk: {err}; not served until the device is reset");
            active.interrupt.set_needs_reset();
        }
        drop(active);
        *stop.left.lock().unwrap_or_else(PoisonError::into_inner) = true;
        stop.changed.notify_all();
    }
}

fn serve(active: &mut ActiveQueue, disk: &Disk, stop: &AtomicBool) -> Result<(), QueueError> {
    let ActiveQueue { queue, kick, memory, interrupt, write_through } = active;
    while !stop.load(Ordering::Acquire) {
        if let Some(chain) = next_chain(queue, memory)? {
            let head = chain.head_index();
            let written = disk.answer(chain, memory, *write_through);
            complete(queue, memory, head, written)?;
            notify(queue, memory, interrupt)?;
        } else if !queue.enable_notification(memory.as_ref())? {
            match kick.read() {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
    }
    Ok(())
}
