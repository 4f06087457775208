//! The queues, served on the device loop.

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::device::Shared;
use super::muxer::{FIRST_PORT, MAX_CONNECTIONS, Muxer};
use super::packet::{RxBuffer, TxPacket};
use crate::devices::budget::Budget;
use crate::devices::{ActivateError, Activation, Interrupt, QueueError, complete, kicks, next_chain, notify};
use crate::memory::GuestMemory;

/// Tokens in epoll; from [`FIRST_PORT`] on they are connections.
const RX: u32 = 0;
const TX: u32 = 1;
const EVENT: u32 = 2;
const LISTENER: u32 = 3;
const _: () = assert!(LISTENER < FIRST_PORT);

/// An active device.
pub(super) struct Worker {
    memory: Arc<GuestMemory>,
    rx: Queue,
    tx: Queue,
    kicks: Vec<EventFd>,
    interrupt: Arc<Interrupt>,
    muxer: Muxer,
    shared: Arc<Shared>,
    /// Whether epoll watches the listener.
    listening: bool,
    /// The driver broke a queue: nothing is served until it resets the device.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// When `activation` is not that of a device with three queues.
    pub fn new(activation: Activation, shared: Arc<Shared>) -> Result<Self, ActivateError> {
        let got = activation.queues.len();
        let mut queues = activation.queues.into_iter();
        // The device has nothing to say on the event queue: its one message is for a restored guest.
        let (Some(rx), Some(tx), Some(_event)) = (queues.next(), queues.next(), queues.next()) else {
            return Err(ActivateError::QueueCount { got, expected: 3 });
        };
        Ok(Worker {
            memory: activation.memory,
            rx,
            tx,
            kicks: activation.kicks,
            interrupt: activation.interrupt,
            muxer: Muxer::new(Arc::clone(&shared), MAX_CONNECTIONS),
            shared,
            listening: false,
            broken: false,
        })
    }

    fn serve(&mut self, token: u32, events: EventSet, ops: &mut EventOps) -> Result<(), QueueError> {
        match token {
            RX | EVENT => kicks::take(&self.kicks, token),
            TX => {
                kicks::take(&self.kicks, token);
                self.serve_tx(ops)?;
            }
            LISTENER => self.muxer.accept(&self.shared.listener, ops),
            key => self.muxer.on_socket(key, events, ops),
        }
        if token != LISTENER {
            self.muxer.unpause();
        }
        self.serve_rx(ops)?;
        self.watch_listener(ops);
        Ok(())
    }

    fn serve_tx(&mut self, ops: &mut EventOps) -> Result<(), QueueError> {
        if !self.tx.ready() {
            return Ok(());
        }
        let memory = Arc::clone(&self.memory);
        let mut budget = Budget::new();
        self.tx.disable_notification(&*memory)?;
        let mut rechecked = false;
        while !budget.is_spent() {
            let Some(chain) = next_chain(&mut self.tx, &memory)? else {
                if !self.tx.enable_notification(&*memory)? {
                    break;
                }
                if std::mem::replace(&mut rechecked, true) {
                    return Err(QueueError::Broken("vsock: an available ring that cannot be read".into()));
                }
                self.tx.disable_notification(&*memory)?;
                continue;
            };
            rechecked = false;
            let head = chain.head_index();
            let packet = TxPacket::new(&memory, chain)?;
            budget.spend(packet.data.len());
            self.muxer.on_packet(packet, ops);
            complete(&mut self.tx, &memory, head, 0)?;
        }
        if budget.is_spent() {
            kicks::again(&self.kicks, TX);
        }
        notify(&mut self.tx, &memory, &self.interrupt)
    }

    fn serve_rx(&mut self, ops: &mut EventOps) -> Result<(), QueueError> {
        if !self.muxer.has_turns() || !self.rx.ready() {
            return Ok(());
        }
        let memory = Arc::clone(&self.memory);
        let mut budget = Budget::new();
        let mut used = false;
        let mut rechecked = false;
        self.rx.disable_notification(&*memory)?;
        while self.muxer.has_turns() {
            if budget.is_spent() {
                kicks::again(&self.kicks, RX);
                break;
            }
            let Some(chain) = next_chain(&mut self.rx, &memory)? else {
                // The guest has to give buffers first, and to say so.
                if !self.rx.enable_notification(&*memory)? {
                    break;
                }
                if std::mem::replace(&mut rechecked, true) {
                    return Err(QueueError::Broken("vsock: an available ring that cannot be read".into()));
                }
                continue;
            };
            rechecked = false;
            let head = chain.head_index();
            match self.muxer.fill(RxBuffer::new(&memory, chain)?, ops) {
                Some(len) => {
                    complete(&mut self.rx, &memory, head, len)?;
                    budget.spend(len as usize);
                    used = true;
                }
                None => self.rx.go_to_previous_position(),
            }
        }
        if used { notify(&mut self.rx, &memory, &self.interrupt) } else { Ok(()) }
    }

    fn watch_listener(&mut self, ops: &mut EventOps) {
        let wanted = self.muxer.accepts();
        if wanted == self.listening {
            return;
        }
        let events = Events::with_data(&self.shared.listener, LISTENER, EventSet::IN);
        let done = if wanted { ops.add(events) } else { ops.remove(events) };
        match done {
            Ok(()) => self.listening = wanted,
            Err(err) => log::error!("vsock: cannot watch the listener: {err:?}"),
        }
    }

    /// Leaves the device alone until the driver resets it: no connection, nothing in epoll.
    fn give_up(&mut self, err: &QueueError, ops: &mut EventOps) {
        log::error!("vsock: {err}; the device waits for a reset");
        self.broken = true;
        self.muxer.clear(ops);
        for kick in &self.kicks {
            // Not there if it could not be added.
            let _ = ops.remove(Events::empty(kick));
        }
        if std::mem::take(&mut self.listening) {
            let _ = ops.remove(Events::empty(&self.shared.listener));
        }
        self.interrupt.set_needs_reset();
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        for (token, kick) in (RX..).zip(&self.kicks) {
            if let Err(err) = ops.add(Events::with_data(kick, token, EventSet::IN)) {
                return self.give_up(&QueueError::Broken(format!("cannot watch its kicks: {err:?}")), ops);
            }
        }
        self.watch_listener(ops);
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
