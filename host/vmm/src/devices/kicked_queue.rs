//! A queue on the device loop whose chains are answered at once: the worker of rng, console, balloon and mem.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{Activation, Interrupt, QueueError, complete, next_chain, notify};
use crate::memory::GuestMemory;

/// A turn ends with the first chain after so long: for some the host's kernel has to look at much memory.
const TURN: Duration = Duration::from_millis(10);

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
        let begin = Instant::now();
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
            if begin.elapsed() >= TURN {
                break;
            }
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

#[cfg(test)]
mod tests {
    use virtio_queue::desc::{RawDescriptor, split::Descriptor as SplitDescriptor};
    use virtio_queue::mock::MockSplitQueue;

    use super::*;
    use crate::memory;

    struct Slow;

    impl ChainHandler for Slow {
        fn handle(&mut self, _chain: DescriptorChain<&GuestMemory>, _memory: &GuestMemory) -> u32 {
            std::thread::sleep(TURN);
            0
        }
    }

    #[test]
    fn others_have_their_turn_after_a_chain_that_takes_long() {
        let memory = memory::allocate(64).unwrap();
        let mock = MockSplitQueue::new(memory.as_ref(), 16);
        let chain = |address| RawDescriptor::from(SplitDescriptor::new(address, 1, 0, 0));
        mock.add_desc_chains(&[chain(0x10_0000), chain(0x20_0000)], 0).unwrap();
        let mut queue: Queue = mock.create_queue().unwrap();
        queue.set_ready(true);
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut activation = Activation {
            memory: Arc::clone(&memory),
            queues: vec![queue],
            kicks: vec![eventfd()],
            interrupt: Interrupt::new(eventfd()),
            features: 0,
        };
        let mut served = KickedQueue::take(&mut activation, 0, Slow).unwrap();
        for count in 1..=2 {
            served.serve().unwrap();
            assert_eq!((u16::from_le(mock.used().idx().load()), served.kick.read().unwrap()), (count, 1));
        }
        served.serve().unwrap();
        assert!(served.kick.read().is_err(), "nothing is left");
    }
}
