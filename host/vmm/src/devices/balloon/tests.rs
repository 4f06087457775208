//! Reports, and what is none.

use std::sync::Arc;

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use vmm_sys_util::eventfd::EventFd;

use super::Balloon;
use super::device::{Ignore, Report};
use crate::devices::kicked_queue::ChainHandler;
use crate::devices::{Activation, Interrupt, VirtioDevice, next_chain};
use crate::event_loop::EventLoop;
use crate::memory::{self, GuestMemory};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const PAGES: u64 = 0x20_0000;
const END: u64 = 64 << 20;

/// Which of the pages at [`PAGES`] keep their content when a driver makes this chain available.
fn kept(handler: &mut impl ChainHandler, descriptors: &[(u64, u32, u16, u16)]) -> Vec<u64> {
    let memory: Arc<GuestMemory> = memory::allocate(64).unwrap();
    let page = |index: u64| GuestAddress(PAGES + index * 4096);
    (0..4).for_each(|index| memory.write_obj(7u8, page(index)).unwrap());
    let raw: Vec<RawDescriptor> =
        descriptors.iter().map(|(a, l, f, n)| RawDescriptor::from(Descriptor::new(*a, *l, *f, *n))).collect();
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    mock.add_desc_chains(&raw, 0).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    queue.set_ready(true);
    let chain = next_chain(&mut queue, &memory).unwrap().expect("a chain");
    assert_eq!(handler.handle(chain, &memory), 0);
    (0..4).filter(|index| memory.read_obj::<u8>(page(*index)).unwrap() == 7).collect()
}

#[test]
fn what_is_reported_goes_back() {
    assert_eq!(kept(&mut Report, &[(PAGES, 4096, WRITE, 0)]), [1, 2, 3]);
    assert_eq!(kept(&mut Report, &[(PAGES, 4096, WRITE | NEXT, 1), (PAGES + 8192, 8192, WRITE, 0)]), [1]);
}

#[test]
fn what_is_no_range_of_memory_is_passed_over() {
    for (address, length, flags) in [
        (PAGES, 4096, 0),
        (PAGES, 0, WRITE),
        (PAGES + 1, 4096, WRITE),
        (END, 4096, WRITE),
        (END - 4096, u32::MAX - 8191, WRITE),
        (u64::MAX - 4095, 4096, WRITE),
    ] {
        assert_eq!(kept(&mut Report, &[(address, length, flags, 0)]), [0, 1, 2, 3], "{address:#x} {length:#x} {flags}");
        // What follows is looked at nevertheless.
        let chain = [(address, length, flags | NEXT, 1), (PAGES, 4096, WRITE, 0)];
        assert_eq!(kept(&mut Report, &chain), [1, 2, 3], "{address:#x} {length:#x} {flags}");
    }
    // A chain without an end.
    assert_eq!(kept(&mut Report, &[(PAGES, 4096, WRITE | NEXT, 0)]), [1, 2, 3]);
}

#[test]
fn the_balloon_takes_nothing() {
    assert_eq!(kept(&mut Ignore, &[(PAGES, 4096, WRITE, 0)]), [0, 1, 2, 3]);
}

#[test]
fn a_driver_that_reports_nothing_has_two_queues() {
    let device_loop = EventLoop::start(Arc::new(|_| {})).unwrap();
    let mut balloon = Balloon::new(device_loop.handle());
    let memory: Arc<GuestMemory> = memory::allocate(64).unwrap();
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    let eventfd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut activate = |count: usize, features: u64| {
        let queue = |_| {
            let mut queue: Queue = mock.create_queue().unwrap();
            queue.set_ready(true);
            queue
        };
        let (memory, interrupt) = (Arc::clone(&memory), Interrupt::new(eventfd()));
        let kicks = (0..count).map(|_| eventfd()).collect();
        let queues = (0..count).map(queue).collect();
        balloon.activate(Activation { memory, queues, kicks, interrupt, features }).is_ok()
    };
    let all = Balloon::new(device_loop.handle()).features();
    let silent = all & !(1 << 5);
    assert!(activate(3, all) && activate(2, silent));
    assert!(!activate(2, all) && !activate(3, silent));
    let in_use = [all, silent].map(|features| Balloon::new(device_loop.handle()).queues_in_use(features));
    assert_eq!(in_use, [3, 2]);
}
