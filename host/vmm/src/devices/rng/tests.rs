//! The entropy device against whatever chains a driver can write.

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::Fill;
use crate::devices::kicked_queue::ChainHandler;
use crate::devices::next_chain;
use crate::memory;

const WRITE: u16 = 2;

fn answer(descriptors: &[(u64, u32, u16, u16)]) -> (u32, std::sync::Arc<memory::GuestMemory>) {
    let memory = memory::allocate(64).unwrap();
    let raw: Vec<RawDescriptor> =
        descriptors.iter().map(|(a, l, f, n)| RawDescriptor::from(Descriptor::new(*a, *l, *f, *n))).collect();
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    mock.add_desc_chains(&raw, 0).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    queue.set_ready(true);
    let chain = next_chain(&mut queue, &memory).unwrap().expect("a chain");
    let written = Fill.handle(chain, &memory);
    (written, std::sync::Arc::clone(&memory))
}

#[test]
fn fills_what_the_driver_asks_for() {
    let (written, memory) = answer(&[(0x10_0000, 64, WRITE, 0)]);
    assert_eq!(written, 64);
    let mut bytes = [0u8; 64];
    memory.read_slice(&mut bytes, GuestAddress(0x10_0000)).unwrap();
    assert_ne!(bytes, [0; 64]);
}

#[test]
fn large_requests_are_cut() {
    let (written, _) = answer(&[(0x10_0000, 8 << 20, WRITE, 0)]);
    assert_eq!(written, 4096);
}

#[test]
fn chains_that_cannot_be_filled_are_answered_with_nothing() {
    for (address, length, flags) in [
        (0x10_0000, 64, 0),              // the device may only read it
        (0x10_0000, 0, WRITE),           // empty
        (64 << 20, 64, WRITE),           // beyond memory
        ((64 << 20) - 8, 64, WRITE),     // across its end
        (u64::MAX - 8, u32::MAX, WRITE), // overflows
    ] {
        let (written, _) = answer(&[(address, length, flags, 0)]);
        assert_eq!(written, 0, "{address:#x} {length} {flags}");
    }
}
