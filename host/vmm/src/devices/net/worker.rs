//! The device on the device loop, from activation to reset.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::control::{ControlQueue, Request};
use super::device::Shared;
use super::header::{self, F_MQ};
use super::pair::{Context, Pair, PairError, TOKENS};
use super::setting::Setting;
use super::sys;
use crate::devices::{ActivateError, Activation};

/// Tokens in epoll, behind those of the pairs.
const CONTROL: u32 = u32::MAX - 1;
const TIMER: u32 = u32::MAX;

/// An active device. It makes frames and buffers meet, or has vhost do so and sleeps.
pub(super) struct Worker {
    /// Those that the driver has set up. Dropped first, as the kernel may use them.
    pairs: Vec<Pair>,
    /// How many of them the driver uses, from the first on: one until it says otherwise (5.1.6.5.5).
    used: usize,
    control: Option<ControlQueue>,
    context: Context,
    shared: Arc<Shared>,
    /// The queues are served; before, nothing is watched but the timer.
    begun: bool,
    /// Until the tap may be told of the driver's wishes.
    timer: Option<TimerFd>,
    /// The driver broke a queue: nothing is served until it resets the device.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// When `activation` has not the queues of a driver with its features.
    pub fn new(activation: Activation, shared: Arc<Shared>) -> Result<Self, ActivateError> {
        let got = activation.queues.len();
        let Activation { memory, queues, kicks, interrupt, features } = activation;
        let mut queues = queues.into_iter().zip(kicks);
        let count = if features & F_MQ != 0 { shared.ends.len() } else { 1 };
        let mut pairs = Vec::with_capacity(count);
        for (token, end) in (0..).step_by(TOKENS as usize).zip(&shared.ends).take(count) {
            let (Some((rx, rx_kick)), Some((tx, tx_kick))) = (queues.next(), queues.next()) else {
                return Err(ActivateError::QueueCount { got, expected: 2 * count });
            };
            pairs.push(Pair::new(token, Arc::clone(end), [rx, tx], [rx_kick, tx_kick], features));
        }
        Ok(Worker {
            pairs,
            used: 0,
            control: queues.next().map(|(queue, kick)| ControlQueue::new(queue, kick)),
            context: Context { memory, interrupt, features },
            shared,
            begun: false,
            timer: None,
            broken: false,
        })
    }

    /// How many of the tap's queues are to be in use at the beginning. A driver that can use all says soon how many it wants: until then
    /// nothing is changed for it, and the frames of the others wait for it in the tap.
    fn queues_at_first(&self) -> usize {
        if self.context.features & F_MQ != 0 { self.attached().get() } else { 1 }
    }

    fn attached(&self) -> MutexGuard<'_, Setting<usize>> {
        self.shared.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offloads(&self) -> MutexGuard<'_, Setting<u32>> {
        self.shared.offloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tap that refuses has no offloads, as one that was just opened has none; then the guest gets whole frames. If
    /// it kept those of an earlier driver, frames that this one does not understand are left out one by one
    /// ([`header::adapt`]). So a failure costs speed at most, and the device works on.
    fn set_offloads(&self) {
        let Some(first) = self.shared.ends.first() else { return };
        let flags = header::tap_offloads(self.context.features);
        let set = |set: &mut u32| sys::set_offload(&first.tap, flags).map(|()| *set = flags);
        if let Err(err) = self.offloads().change(flags, Instant::now(), set) {
            log::warn!("net: the tap's offloads cannot be set: {err}");
        }
    }

    /// Has the tap send and receive by its first `count` queues. Returns by how many it does.
    fn attach(&self, count: usize) -> usize {
        let tap = |index: usize| {
            let end = self.shared.ends.get(index).ok_or(std::io::ErrorKind::NotFound)?;
            std::io::Result::Ok(&end.tap)
        };
        let set = |attached: &mut usize| {
            while *attached < count {
                sys::set_queue(tap(*attached)?, true)?;
                *attached += 1;
            }
            while *attached > count {
                sys::set_queue(tap(*attached - 1)?, false)?;
                *attached -= 1;
            }
            std::io::Result::Ok(())
        };
        let mut attached = self.attached();
        if let Err(err) = attached.change(count, Instant::now(), set) {
            log::warn!("net: the tap's queues cannot be set: {err}");
        }
        attached.get()
    }

    /// Serves the queues from now on.
    fn begin(&mut self, ops: &mut EventOps) -> Result<(), PairError> {
        self.begun = true;
        self.set_offloads();
        self.attach(self.queues_at_first());
        self.start_pairs(1, ops)?;
        if let Some(control) = &self.control {
            let events = Events::with_data(control.kick(), CONTROL, EventSet::IN);
            ops.add(events).map_err(PairError::watch("kicks"))?;
        }
        Ok(())
    }

    fn start_pairs(&mut self, count: usize, ops: &mut EventOps) -> Result<(), PairError> {
        for pair in self.pairs.iter_mut().take(count).skip(self.used) {
            pair.start(&self.context, ops)?;
            self.used += 1;
        }
        Ok(())
    }

    /// Goes on later: a driver that changes its mind too often waits, and nobody else.
    fn go_on_after(&mut self, wait: Duration, ops: &mut EventOps) -> Result<(), PairError> {
        let mut timer = TimerFd::new().map_err(|err| PairError::Timer(err.into()))?;
        timer.reset(wait, None).map_err(|err| PairError::Timer(err.into()))?;
        let events = Events::with_data(self.timer.insert(timer), TIMER, EventSet::IN);
        ops.add(events).map_err(PairError::watch("timer"))
    }

    fn serve(&mut self, token: u32, events: EventSet, ops: &mut EventOps) -> Result<(), PairError> {
        match token {
            TIMER => {
                if let Some(timer) = self.timer.take() {
                    let _ = ops.remove(Events::empty(&timer));
                }
                if self.begun { self.serve_control(ops) } else { self.begin(ops) }
            }
            CONTROL => self.serve_control(ops),
            _ => match self.pairs.iter_mut().take(self.used).nth((token / TOKENS) as usize) {
                Some(pair) => pair.serve(token % TOKENS, events, &self.context, ops),
                None => Ok(()),
            },
        }
    }

    fn serve_control(&mut self, ops: &mut EventOps) -> Result<(), PairError> {
        let Some(mut control) = self.control.take() else { return Ok(()) };
        let served = self.serve_commands(&mut control, ops);
        self.control = Some(control);
        served
    }

    /// Answers the commands that wait, for one turn.
    fn serve_commands(&mut self, control: &mut ControlQueue, ops: &mut EventOps) -> Result<(), PairError> {
        let _ = control.kick().read();
        // They are served in order, and the first one's time has not come.
        if self.timer.is_some() {
            return Ok(());
        }
        for _ in 0..control.turn() {
            let Some(command) = control.next(&self.context.memory)? else {
                return Ok(control.notify(&self.context.memory, &self.context.interrupt)?);
            };
            let pairs = self.pairs_wanted(command.request);
            if let Some(wait) = pairs.and_then(|pairs| self.attached().wait(pairs, Instant::now())) {
                control.put_back(command);
                control.notify(&self.context.memory, &self.context.interrupt)?;
                return self.go_on_after(wait, ops);
            }
            let done = pairs.map_or(Ok(false), |pairs| self.use_pairs(pairs, ops))?;
            control.answer(command, done, &self.context.memory)?;
        }
        control.notify(&self.context.memory, &self.context.interrupt)?;
        // There may be more, of which the driver says nothing any more. Fails when it is readable anyway.
        let _ = control.kick().write(1);
        Ok(())
    }

    /// How many pairs a command asks for, if it may (5.1.6.5.5.1).
    fn pairs_wanted(&self, request: Request) -> Option<usize> {
        let Request::SetPairs(pairs) = request else { return None };
        let allowed = self.context.features & F_MQ != 0 && (1..=self.pairs.len()).contains(&pairs.into());
        allowed.then_some(pairs.into())
    }

    /// Serves the first `count` pairs and no others. False when the tap does not take part: then as many as it does.
    fn use_pairs(&mut self, count: usize, ops: &mut EventOps) -> Result<bool, PairError> {
        let before = self.used;
        for pair in self.pairs.iter_mut().take(before).skip(count) {
            pair.stop(ops)?;
        }
        self.used = before.min(count);
        let attached = self.attach(count);
        self.start_pairs(attached.min(before.max(count)), ops)?;
        Ok(self.used == count)
    }

    /// Leaves the device alone until the driver resets it: nothing in epoll.
    fn give_up(&mut self, reason: &PairError, ops: &mut EventOps) {
        log::warn!("net: {reason}; the device waits for a reset");
        self.broken = true;
        for pair in &mut self.pairs {
            pair.give_up(ops);
        }
        // Neither need be there.
        if let Some(control) = &self.control {
            let _ = ops.remove(Events::empty(control.kick()));
        }
        if let Some(timer) = self.timer.take() {
            let _ = ops.remove(Events::empty(&timer));
        }
        self.context.interrupt.set_needs_reset();
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        let now = Instant::now();
        let offloads = self.offloads().wait(header::tap_offloads(self.context.features), now);
        let queues = self.queues_at_first();
        let attached = self.attached().wait(queues, now);
        let begun = match offloads.max(attached) {
            Some(wait) => self.go_on_after(wait, ops),
            None => self.begin(ops),
        };
        if let Err(err) = begun {
            self.give_up(&err, ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.broken {
            return;
        }
        if let Err(err) = self.serve(events.data(), events.event_set(), ops) {
            self.give_up(&err, ops);
        }
    }
}
