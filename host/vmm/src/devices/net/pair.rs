//! A queue pair: a receive queue, a transmit queue and the tap's queue behind them, served by the device loop or by vhost.

use std::fs::File;
use std::sync::Arc;

use event_manager::{EventOps, Events};
use virtio_queue::Queue;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::rx::{Next, RxQueue};
use super::tx::TxQueue;
use super::vhost::{Session, Vhost, VhostError};
use crate::devices::{Interrupt, QueueError, kicks};
use crate::memory::GuestMemory;

/// Tokens in epoll, from the pair's first on; the first two are the queues' places in it.
const RX: u32 = 0;
const TX: u32 = 1;
const TAP: u32 = 2;
/// How many tokens a pair has.
pub(super) const TOKENS: u32 = 3;

/// The host's side of a pair.
pub(super) struct End {
    pub tap: File,
    pub vhost: Option<Arc<Vhost>>,
}

/// What all queues of an active device share.
pub(super) struct Context {
    pub memory: Arc<GuestMemory>,
    pub interrupt: Arc<Interrupt>,
    /// That the driver accepted.
    pub features: u64,
}

/// Why a pair is served no more, and with it the device, until the driver resets it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PairError {
    /// The kernel may have used buffers already: only the driver can begin anew.
    #[error(transparent)]
    Vhost(#[from] VhostError),
    /// The driver broke a queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// epoll failed.
    #[error("cannot watch its {what}: {reason:?}")]
    Watch {
        /// What was to be watched.
        what: &'static str,
        /// What the loop said.
        reason: event_manager::Error,
    },
    /// timerfd failed.
    #[error("cannot make a timer: {0}")]
    Timer(std::io::Error),
}

impl PairError {
    pub fn watch(what: &'static str) -> impl Fn(event_manager::Error) -> Self {
        move |reason| PairError::Watch { what, reason }
    }
}

/// One of an active device's.
pub(super) struct Pair {
    /// Dropped first: the kernel lets go of rings and memory before anything else does.
    vhost: Option<Session>,
    end: Arc<End>,
    rx: RxQueue,
    tx: TxQueue,
    kicks: [EventFd; 2],
    /// Of its tokens.
    first_token: u32,
    /// Whether epoll watches the tap. While a frame waits for buffers it does not, as the tap would be readable all the
    /// time.
    watching: bool,
    /// Nothing more comes from the tap.
    tap_gone: bool,
}

impl Pair {
    /// Around queues that are ready, receiveq and transmitq, each with its kick, of a driver that accepted `features`.
    pub fn new(first_token: u32, end: Arc<End>, queues: [Queue; 2], kicks: [EventFd; 2], features: u64) -> Self {
        let [rx, tx] = queues;
        Pair {
            vhost: None,
            end,
            rx: RxQueue::new(rx, features),
            tx: TxQueue::new(tx),
            kicks,
            first_token,
            watching: false,
            tap_gone: false,
        }
    }

    /// Serves the queues from now on, or has vhost do so.
    ///
    /// # Errors
    /// See [`PairError`].
    pub fn start(&mut self, context: &Context, ops: &mut EventOps) -> Result<(), PairError> {
        if self.start_vhost(context)? {
            return Ok(());
        }
        for (token, kick) in (self.first_token + RX..).zip(&self.kicks) {
            ops.add(Events::with_data(kick, token, EventSet::IN)).map_err(PairError::watch("kicks"))?;
        }
        self.watch_tap(true, ops);
        Ok(())
    }

    /// Serves them no more until the next start.
    ///
    /// # Errors
    /// [`PairError::Vhost`].
    pub fn stop(&mut self, ops: &mut EventOps) -> Result<(), PairError> {
        if let Some(session) = &self.vhost {
            return Ok(session.pause()?);
        }
        self.leave(ops);
        self.rx.forget_frame();
        Ok(())
    }

    /// Leaves the queues alone for good: nothing in epoll, nothing in the kernel.
    pub fn give_up(&mut self, ops: &mut EventOps) {
        self.vhost = None;
        self.leave(ops);
    }

    /// Whether vhost serves the queues from now on.
    fn start_vhost(&mut self, context: &Context) -> Result<bool, PairError> {
        if let Some(session) = &self.vhost {
            session.resume(&self.end.tap)?;
            // Of a kick that came meanwhile vhost knows nothing.
            kicks::again(&self.kicks, RX);
            kicks::again(&self.kicks, TX);
            return Ok(true);
        }
        let Some(vhost) = self.end.vhost.as_ref().filter(|vhost| vhost.is_usable()) else { return Ok(false) };
        let queues = [self.rx.queue(), self.tx.queue()];
        let Context { memory, interrupt, features } = context;
        match vhost.start(&self.end.tap, *features, queues, &self.kicks, memory, interrupt) {
            Ok(session) => self.vhost = Some(session),
            Err(err @ VhostError::HalfWay(_)) => return Err(err.into()),
            Err(err) => {
                log::warn!("net: {err}; carrying the frames without vhost");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One of the pair's events, by its token less the first one.
    ///
    /// # Errors
    /// [`PairError::Queue`].
    pub fn serve(
        &mut self,
        token: u32,
        events: EventSet,
        context: &Context,
        ops: &mut EventOps,
    ) -> Result<(), PairError> {
        match token {
            TX => {
                kicks::take(&self.kicks, TX);
                if self.tx.serve(&self.end.tap, &context.memory, &context.interrupt)? {
                    kicks::again(&self.kicks, TX);
                }
            }
            // A tap whose interface has been removed is in this state for good.
            TAP if events.intersects(EventSet::ERROR | EventSet::HANG_UP) => self.lose_tap(ops),
            TAP => self.serve_rx(context, ops)?,
            _ => {
                kicks::take(&self.kicks, RX);
                self.serve_rx(context, ops)?;
            }
        }
        Ok(())
    }

    fn serve_rx(&mut self, context: &Context, ops: &mut EventOps) -> Result<(), QueueError> {
        let next = self.rx.serve(&self.end.tap, &context.memory, &context.interrupt)?;
        match next {
            Next::Frame | Next::Buffers => {}
            Next::Turn => kicks::again(&self.kicks, RX),
            Next::TapGone => self.lose_tap(ops),
        }
        self.watch_tap(next == Next::Frame, ops);
        Ok(())
    }

    fn watch_tap(&mut self, wanted: bool, ops: &mut EventOps) {
        let wanted = wanted && !self.tap_gone;
        if wanted == self.watching {
            return;
        }
        let events = Events::with_data(&self.end.tap, self.first_token + TAP, EventSet::IN);
        let done = if wanted { ops.add(events) } else { ops.remove(events) };
        match done {
            Ok(()) => self.watching = wanted,
            Err(err) => log::error!("net: cannot watch the tap: {err:?}"),
        }
    }

    fn lose_tap(&mut self, ops: &mut EventOps) {
        if !std::mem::replace(&mut self.tap_gone, true) {
            log::warn!("net: the tap is gone; the guest receives nothing more");
        }
        self.watch_tap(false, ops);
    }

    fn leave(&mut self, ops: &mut EventOps) {
        for kick in &self.kicks {
            // Not there if it could not be added, or vhost has it.
            let _ = ops.remove(Events::empty(kick));
        }
        self.watch_tap(false, ops);
    }
}
