//! The device on the device loop, from activation to reset.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use super::device::Shared;
use super::rx::{Next, RxQueue};
use super::tx::TxQueue;
use super::vhost::{Session, VhostError};
use super::{header, sys};
use crate::devices::{ActivateError, Activation, Interrupt, QueueError};
use crate::memory::GuestMemory;

/// Tokens in epoll; the first two are the queues' indices.
const RX: u32 = 0;
const TX: u32 = 1;
const TAP: u32 = 2;
const TIMER: u32 = 3;

/// An active device. It makes frames and buffers meet, or has vhost do so and sleeps.
pub(super) struct Worker {
    /// Dropped first: the kernel lets go of rings and memory before anything else does.
    vhost: Option<Session>,
    memory: Arc<GuestMemory>,
    rx: RxQueue,
    tx: TxQueue,
    kicks: Vec<EventFd>,
    interrupt: Arc<Interrupt>,
    features: u64,
    shared: Arc<Shared>,
    /// Whether epoll watches the tap. While a frame waits for buffers it does not, as the tap would be readable all the
    /// time.
    watching: bool,
    /// Nothing more comes from the tap.
    tap_gone: bool,
    /// Until the tap may be told of the driver's offloads; nothing is served before.
    timer: Option<TimerFd>,
    /// The driver broke a queue: nothing is served until it resets the device.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// When `activation` is not that of a device with two queues.
    pub fn new(activation: Activation, shared: Arc<Shared>) -> Result<Self, ActivateError> {
        let got = activation.queues.len();
        let mut queues = activation.queues.into_iter();
        let (Some(rx), Some(tx)) = (queues.next(), queues.next()) else {
            return Err(ActivateError::QueueCount { got, expected: 2 });
        };
        Ok(Worker {
            vhost: None,
            memory: activation.memory,
            rx: RxQueue::new(rx, activation.features),
            tx: TxQueue::new(tx),
            kicks: activation.kicks,
            interrupt: activation.interrupt,
            features: activation.features,
            shared,
            watching: false,
            tap_gone: false,
            timer: None,
            broken: false,
        })
    }

    /// A tap that refuses has no offloads, as one that was just opened has none; then the guest gets whole frames. If
    /// it kept those of an earlier driver, frames that this one does not understand are left out one by one
    /// ([`header::adapt`]). So a failure costs speed at most, and the device works on.
    fn set_offloads(&self) {
        let flags = header::tap_offloads(self.features);
        let mut offloads = self.shared.offloads.lock().unwrap_or_else(PoisonError::into_inner);
        let set = || sys::set_offload(&self.shared.tap, flags);
        if let Err(err) = offloads.change(flags, Instant::now(), set) {
            log::warn!("net: the tap's offloads cannot be set: {err}");
        }
    }

    /// Whether vhost serves the queues from now on, or nobody.
    fn start_vhost(&mut self, ops: &mut EventOps) -> bool {
        let Some(vhost) = self.shared.vhost.as_ref().filter(|vhost| vhost.is_usable()) else { return false };
        let queues = [self.rx.queue(), self.tx.queue()];
        match vhost.start(&self.shared.tap, self.features, queues, &self.kicks, &self.memory, &self.interrupt) {
            Ok(session) => self.vhost = Some(session),
            // The kernel may have used buffers already: only the driver can begin anew.
            Err(err @ VhostError::HalfWay(_)) => self.give_up(&err, ops),
            Err(err) => {
                log::warn!("net: {err}; carrying the frames without vhost");
                return false;
            }
        }
        true
    }

    fn serve(&mut self, token: u32, events: EventSet, ops: &mut EventOps) -> Result<(), QueueError> {
        match token {
            TX => {
                self.take_kick(TX);
                if self.tx.serve(&self.shared.tap, &self.memory, &self.interrupt)? {
                    self.kick_again(TX);
                }
                Ok(())
            }
            // A tap whose interface has been removed is in this state for good.
            TAP if events.intersects(EventSet::ERROR | EventSet::HANG_UP) => {
                self.lose_tap(ops);
                Ok(())
            }
            TAP => self.serve_rx(ops),
            _ => {
                self.take_kick(RX);
                self.serve_rx(ops)
            }
        }
    }

    fn serve_rx(&mut self, ops: &mut EventOps) -> Result<(), QueueError> {
        let next = self.rx.serve(&self.shared.tap, &self.memory, &self.interrupt)?;
        match next {
            Next::Frame | Next::Buffers => {}
            Next::Turn => self.kick_again(RX),
            Next::TapGone => self.lose_tap(ops),
        }
        self.watch_tap(next == Next::Frame, ops);
        Ok(())
    }

    /// Serves the queues from now on.
    fn begin(&mut self, ops: &mut EventOps) {
        self.set_offloads();
        if self.start_vhost(ops) {
            return;
        }
        for (token, kick) in (RX..).zip(&self.kicks) {
            if let Err(err) = ops.add(Events::with_data(kick, token, EventSet::IN)) {
                return self.give_up(&format_args!("cannot watch its kicks: {err:?}"), ops);
            }
        }
        self.watch_tap(true, ops);
    }

    /// Does so later: a driver that changes its mind too often waits, and nobody else.
    fn begin_after(&mut self, wait: Duration, ops: &mut EventOps) {
        let armed = TimerFd::new().and_then(|mut timer| timer.reset(wait, None).map(|()| timer));
        match armed.map(|timer| ops.add(Events::with_data(self.timer.insert(timer), TIMER, EventSet::IN))) {
            Ok(Ok(())) => {}
            Ok(Err(err)) => self.give_up(&format_args!("cannot watch its timer: {err:?}"), ops),
            Err(err) => self.give_up(&format_args!("cannot make a timer: {err}"), ops),
        }
    }

    fn take_kick(&self, queue: u32) {
        if let Some(kick) = self.kicks.get(queue as usize) {
            // Level-triggered and non-blocking: that it was readable is all there is to know.
            let _ = kick.read();
        }
    }

    /// Comes back to `queue` after the others.
    fn kick_again(&self, queue: u32) {
        if let Some(kick) = self.kicks.get(queue as usize) {
            // Fails when the counter is full, that is, readable.
            let _ = kick.write(1);
        }
    }

    fn watch_tap(&mut self, wanted: bool, ops: &mut EventOps) {
        let wanted = wanted && !self.tap_gone;
        if wanted == self.watching {
            return;
        }
        let events = Events::with_data(&self.shared.tap, TAP, EventSet::IN);
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

    /// Leaves the device alone until the driver resets it: nothing in epoll.
    fn give_up(&mut self, reason: &dyn std::fmt::Display, ops: &mut EventOps) {
        log::warn!("net: {reason}; the device waits for a reset");
        self.broken = true;
        for kick in &self.kicks {
            // Not there if it could not be added.
            let _ = ops.remove(Events::empty(kick));
        }
        self.watch_tap(false, ops);
        self.interrupt.set_needs_reset();
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        let offloads = self.shared.offloads.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = offloads.wait(header::tap_offloads(self.features), Instant::now());
        drop(offloads);
        match wait {
            Some(wait) => self.begin_after(wait, ops),
            None => self.begin(ops),
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.broken {
            return;
        }
        if let Some(timer) = self.timer.take() {
            // The only thing that is watched.
            let _ = ops.remove(Events::empty(&timer));
            return self.begin(ops);
        }
        if let Err(err) = self.serve(events.data(), events.event_set(), ops) {
            self.give_up(&err, ops);
        }
    }
}
