//! A queue on the device loop whose chains are answered at once: the worker of rng, console, balloon and mem.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{Activation, Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;

/// What a device does with one chain.
pub trait ChainHandler: Send {
    /// Uses the chain and returns how many bytes it wrote into it. A malformed chain is answered with 0.
    fn handle(&mut self, chain: DescriptorChain<&GuestMemory>, memory: &GuestMemory) -> u32;
}

/// One queue, served whenever the driver kicks it.
pub struct KickedQueue<H> {
    queue: Queue,
    kick: EventFd,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    handler: H,
}

impl<H: ChainHandler> KickedQueue<H> {
    /// Takes queue `index` out of `activation`. `None` when it has none.
    pub fn take(activation: &mut Activation, index: usize, handler: H) -> Option<Self> {
        if index >= activation.queues.len() || index >= activation.kicks.len() {
            return None;
        }
        Some(KickedQueue {
            queue: activation.queues.swap_remove(index),
            kick: activation.kicks.swap_remove(index),
            memory: Arc::clone(&activation.memory),
            interrupt: Arc::clone(&activation.interrupt),
            handler,
        })
    }

    /// Serves what waits, at most one ring's worth: a guest that never stops must not keep the loop from other devices.
    fn serve(&mut self) -> Result<(), QueueError> {
        for _ in 0..self.queue.size() {
            let Some(chain) = next_chain(&mut self.queue, &self.memory)? else {
                notify(&mut self.queue, &self.memory, &self.interrupt)?;
                if !self.queue.enable_notification(self.memory.as_ref())? {
                    return Ok(());
                }
                continue;
            };
            let head = chain.head_index();
            let written = self.handler.handle(chain, &self.memory);
            complete(&mut self.queue, &self.memory, head, written)?;
        }
        notify(&mut self.queue, &self.memory, &self.interrupt)?;
        Ok(self.kick.write(1)?)
    }
}

impl<H: ChainHandler> MutEventSubscriber for KickedQueue<H> {
    fn process(&mut self, _events: Events, ops: &mut EventOps) {
        // An error only says that the counter was 0 already.
        let _ = self.kick.read();
        if let Err(err) = self.serve() {
            log::warn!("{err}; not served until the device is reset");
            self.interrupt.set_needs_reset();
            let _ = ops.remove(Events::empty(&self.kick));
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(err) = ops.add(Events::new(&self.kick, EventSet::IN)) {
            log::error!("cannot watch queue eventfd {}: {err:?}", self.kick.as_raw_fd());
            self.interrupt.set_needs_reset();
        }
    }
}
