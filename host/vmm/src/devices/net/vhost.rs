//! vhost-net: the host's kernel carries the frames between the tap and the rings in guest memory, and nothing here runs
//! for them.
//!
//! It is told where guest memory is, where the rings are, which eventfd is the driver's kick (the ioeventfd) and which
//! interrupts the guest (the irqfd). It reads and writes the rings' addresses as they are given, so these are checked
//! here over their whole length; the addresses in descriptors it looks up in the table of guest memory itself.
//!
//! Each queue pair has a vhost of its own, and with it a thread of the kernel's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory as _};
use vmm_sys_util::eventfd::EventFd;

use super::header::F_MRG_RXBUF;
use super::sys::{self, RingAddresses};
use crate::devices::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt};
use crate::memory::GuestMemory;

/// The features that are about rings and headers, and so vhost's. The others are the tap's.
const RING_FEATURES: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | F_MRG_RXBUF;
/// A pair's receiveq and transmitq, by their numbers in vhost.
const QUEUES: usize = 2;

/// Why vhost does not carry a device's frames.
#[derive(Debug, thiserror::Error)]
pub(super) enum VhostError {
    /// An ioctl failed, before vhost had touched a ring.
    #[error("vhost: {call} failed: {reason}")]
    Call {
        /// The ioctl.
        call: &'static str,
        /// What the system said.
        reason: io::Error,
    },
    /// It knows only the rings of before virtio 1.0.
    #[error("vhost does not know virtio 1")]
    Legacy,
    /// A ring is not in one piece of guest memory.
    #[error("vhost: queue {0} is not in one piece of guest memory")]
    Ring(u32),
    /// A queue could not be started, or stopped, when vhost had touched the rings.
    #[error("vhost: VHOST_NET_SET_BACKEND failed half way: {0}")]
    HalfWay(io::Error),
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> VhostError {
    move |reason| VhostError::Call { call, reason }
}

/// /dev/vhost-net, for one queue pair.
pub(super) struct Vhost {
    fd: OwnedFd,
    features: u64,
    /// It belongs to this process (VHOST_SET_OWNER), which cannot be said twice.
    owned: AtomicBool,
    failed: AtomicBool,
}

impl Vhost {
    /// Asks `fd` what it can do.
    ///
    /// # Errors
    /// [`VhostError::Call`] for what is not vhost, [`VhostError::Legacy`].
    pub fn new(fd: OwnedFd) -> Result<Self, VhostError> {
        let features = sys::get_features(&fd).map_err(failed("VHOST_GET_FEATURES"))?;
        if features & F_VERSION_1 == 0 {
            return Err(VhostError::Legacy);
        }
        Ok(Vhost { fd, features, owned: AtomicBool::new(false), failed: AtomicBool::new(false) })
    }

    /// Those of `features` that a device can offer which vhost is to serve.
    pub fn limit(&self, features: u64) -> u64 {
        features & (!RING_FEATURES | self.features)
    }

    /// False once [`Self::start`] has failed: it would fail again.
    pub fn is_usable(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    /// Has vhost serve `queues`, receiveq and transmitq, until the session is dropped. `features` are those that the
    /// driver accepted.
    ///
    /// # Errors
    /// See [`VhostError`]. Nothing runs then; and but for [`VhostError::HalfWay`], the queues are as they were.
    pub fn start(
        self: &Arc<Self>,
        tap: &File,
        features: u64,
        queues: [&Queue; QUEUES],
        kicks: &[EventFd],
        memory: &Arc<GuestMemory>,
        interrupt: &Arc<Interrupt>,
    ) -> Result<Session, VhostError> {
        let started = self.prepare(features, queues, kicks, memory, interrupt).and_then(|()| {
            let session =
                Session { vhost: Arc::clone(self), memory: Arc::clone(memory), interrupt: Arc::clone(interrupt) };
            session.run(tap)?;
            Ok(session)
        });
        self.failed.store(started.is_err(), Ordering::Release);
        started
    }

    fn prepare(
        &self,
        features: u64,
        queues: [&Queue; QUEUES],
        kicks: &[EventFd],
        memory: &GuestMemory,
        interrupt: &Interrupt,
    ) -> Result<(), VhostError> {
        if !self.owned.swap(true, Ordering::AcqRel) {
            sys::set_owner(&self.fd).map_err(failed("VHOST_SET_OWNER"))?;
        }
        // Without VHOST_NET_F_VIRTIO_NET_HDR: the header is the tap's, and with VERSION_1 it has 12 bytes.
        sys::set_features(&self.fd, features & RING_FEATURES).map_err(failed("VHOST_SET_FEATURES"))?;
        sys::set_memory(&self.fd, memory).map_err(failed("VHOST_SET_MEM_TABLE"))?;
        for ((index, queue), kick) in (0..).zip(queues).zip(kicks) {
            let addresses = ring_addresses(memory, queue).ok_or(VhostError::Ring(index))?;
            let fd = &self.fd;
            sys::set_ring_size(fd, index, queue.size()).map_err(failed("VHOST_SET_VRING_NUM"))?;
            sys::set_ring_base(fd, index, queue.next_avail()).map_err(failed("VHOST_SET_VRING_BASE"))?;
            sys::set_ring_addresses(fd, index, &addresses).map_err(failed("VHOST_SET_VRING_ADDR"))?;
            sys::set_ring_kick(fd, index, kick).map_err(failed("VHOST_SET_VRING_KICK"))?;
            sys::set_ring_call(fd, index, interrupt.irq()).map_err(failed("VHOST_SET_VRING_CALL"))?;
        }
        Ok(())
    }
}

/// Where in this process the rings of `queue` are (virtio 1.2, 2.7: the sizes of its three parts). `None` unless each
/// is in one region of guest memory, all of it: the kernel takes the addresses for a plain stretch of this process's
/// memory.
fn ring_addresses(memory: &GuestMemory, queue: &Queue) -> Option<RingAddresses> {
    let entries = usize::from(queue.size());
    let host = |address: u64, len: usize| {
        let slice = memory.get_slice(GuestAddress(address), len).ok()?;
        Some(slice.ptr_guard().as_ptr() as u64)
    };
    Some(RingAddresses {
        descriptors: host(queue.desc_table(), 16 * entries)?,
        // flags, idx, the entries, and the index from which on to notify.
        available: host(queue.avail_ring(), 4 + 2 * entries + 2)?,
        used: host(queue.used_ring(), 4 + 8 * entries + 2)?,
    })
}

/// The time in which the kernel serves the queues.
pub(super) struct Session {
    vhost: Arc<Vhost>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
}

impl Session {
    fn run(&self, tap: &File) -> Result<(), VhostError> {
        // Before the first interrupt.
        self.interrupt.set_used_elsewhere(true);
        sys::set_backend(&self.vhost.fd, 0, Some(tap)).map_err(failed("VHOST_NET_SET_BACKEND"))?;
        sys::set_backend(&self.vhost.fd, 1, Some(tap)).map_err(VhostError::HalfWay)
    }

    /// Has the kernel leave the queues alone; when this returns, it touches the rings no more. It remembers where in them it was.
    ///
    /// # Errors
    /// [`VhostError::HalfWay`]: it may go on.
    pub fn pause(&self) -> Result<(), VhostError> {
        (0..QUEUES as u32)
            .try_for_each(|index| sys::set_backend(&self.vhost.fd, index, None))
            .map_err(VhostError::HalfWay)
    }

    /// Has it go on after that.
    ///
    /// # Errors
    /// [`VhostError::HalfWay`].
    pub fn resume(&self, tap: &File) -> Result<(), VhostError> {
        let start = |index| sys::set_backend(&self.vhost.fd, index, Some(tap));
        (0..QUEUES as u32).try_for_each(start).map_err(VhostError::HalfWay)
    }
}

impl Drop for Session {
    /// When this returns, the kernel touches the rings no more.
    fn drop(&mut self) {
        for index in 0..QUEUES as u32 {
            if let Err(err) = sys::set_backend(&self.vhost.fd, index, None) {
                log::error!("net: vhost does not stop: {err}");
                // It must not write to what else would come to be where guest memory was.
                std::mem::forget(Arc::clone(&self.memory));
            }
        }
        self.interrupt.set_used_elsewhere(false);
    }
}

#[cfg(test)]
mod tests {
    use virtio_queue::QueueT;
    use vm_memory::GuestMemoryMmap;

    use super::*;

    /// Two regions with nothing in between, of which the second is not behind the first in this process either.
    fn memory() -> GuestMemory {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x20000), 0x10000)]).unwrap()
    }

    fn queue(descriptors: u64, available: u64, used: u64) -> Queue {
        let mut queue = Queue::new(256).unwrap();
        queue.try_set_desc_table_address(GuestAddress(descriptors)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(available)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
        queue
    }

    #[test]
    fn rings_are_found_where_the_guest_has_them() {
        let memory = memory();
        let host = |address| memory.get_slice(GuestAddress(address), 1).unwrap().ptr_guard().as_ptr() as u64;
        let addresses = ring_addresses(&memory, &queue(0x1000, 0x2002, 0x20004)).unwrap();
        assert_eq!(addresses.descriptors, host(0x1000));
        assert_eq!(addresses.available, host(0x2002));
        assert_eq!(addresses.used, host(0x20004));
        // Up to the last byte of a region.
        assert!(ring_addresses(&memory, &queue(0xf000, 0x2fdfa, 0xf7f8)).is_some_and(|a| a.used == host(0xf7f8)));
    }

    #[test]
    fn rings_that_leave_guest_memory_are_refused() {
        let memory = memory();
        for (descriptors, available, used) in [
            (0xf010, 0, 0),
            (0, 0xfdfc, 0),
            (0, 0, 0xf7fc),
            (0x10000, 0, 0),
            (0, 0x1fffe, 0),
            (0, 0, 0x30000),
            (u64::MAX - 15, 0, 0),
            (0, u64::MAX - 1, 0),
            (0, 0, u64::MAX - 3),
        ] {
            let queue = queue(descriptors, available, used);
            assert!(ring_addresses(&memory, &queue).is_none(), "{descriptors:#x} {available:#x} {used:#x}");
        }
    }

    #[test]
    fn what_is_not_vhost_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(Vhost::new(null.into()), Err(VhostError::Call { call: "VHOST_GET_FEATURES", .. })));
    }
}
