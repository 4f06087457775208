//! The device loop: one thread that serves every device whose work never blocks (vsock, net, rng, console).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, RemoteEndpoint, SubscriberId};

use crate::{ThreadKind, ThreadStart};

/// What the device loop serves: registers its file descriptors in `init`, is told of their readiness in `process`.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Why the loop could not be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum EventLoopError {
    /// epoll or eventfd failed.
    #[error("the device loop failed: {0}")]
    Manager(String),
    /// The thread could not be started.
    #[error("cannot start the device loop's thread: {0}")]
    Spawn(#[from] std::io::Error),
}

impl From<event_manager::Error> for EventLoopError {
    fn from(err: event_manager::Error) -> Self {
        EventLoopError::Manager(format!("{err:?}"))
    }
}

/// A handle by which other threads add subscribers to the loop and take them out.
#[derive(Clone)]
pub struct LoopHandle {
    endpoint: RemoteEndpoint<Subscriber>,
}

impl LoopHandle {
    /// Adds `subscriber`; its `init` runs on the loop's thread before this returns. Never call it on the loop's own thread.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn add(&self, subscriber: Subscriber) -> Result<SubscriberId, EventLoopError> {
        self.endpoint.call_blocking(move |ops| Ok(ops.add_subscriber(subscriber)))
    }

    /// Takes the subscriber out and drops it.
    ///
    /// # Errors
    /// When the loop has ended or does not know `id`.
    pub fn remove(&self, id: SubscriberId) -> Result<(), EventLoopError> {
        self.endpoint.call_blocking(move |ops| ops.remove_subscriber(id).map(drop).map_err(EventLoopError::from))
    }
}

/// The loop and its thread. Dropping it ends both.
pub struct EventLoop {
    handle: LoopHandle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Starts the thread. `on_start` runs on it first (the caller confines the thread there).
    ///
    /// # Errors
    /// When epoll, eventfd or the thread cannot be had.
    pub fn start(on_start: ThreadStart) -> Result<Self, EventLoopError> {
        let mut manager = EventManager::<Subscriber>::new()?;
        let handle = LoopHandle { endpoint: manager.remote_endpoint() };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("devices".into()).spawn(move || {
            on_start(ThreadKind::Devices);
            while !stopped.load(Ordering::Acquire) {
                if let Err(err) = manager.run() {
                    log::error!("device loop: {err:?}");
                    return;
                }
            }
        })?;
        Ok(EventLoop { handle, stop, thread: Some(thread) })
    }

    /// A handle for other threads.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Any message wakes the loop, which then sees `stop`.
        let _ = self.handle.add(Box::new(Nothing));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Nothing;

impl MutEventSubscriber for Nothing {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
    fn init(&mut self, _ops: &mut EventOps) {}
}
