//! The console against whatever chains a driver can write.

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::Record;
use crate::console_log::ConsoleLog;
use crate::devices::kicked_queue::ChainHandler;
use crate::devices::next_chain;
use crate::memory;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn log_of(descriptors: &[(u64, u32, u16, u16)]) -> Vec<String> {
    let memory = memory::allocate(64).unwrap();
    memory.write_slice(b"hello world", GuestAddress(0x10_0000)).unwrap();
    let raw: Vec<RawDescriptor> =
        descriptors.iter().map(|(a, l, f, n)| RawDescriptor::from(Descriptor::new(*a, *l, *f, *n))).collect();
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    mock.add_desc_chains(&raw, 0).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    queue.set_ready(true);
    let chain = next_chain(&mut queue, &memory).unwrap().expect("a chain");
    let log = ConsoleLog::new(false);
    assert_eq!(Record { log: log.clone() }.handle(chain, &memory), 0, "nothing is written into a transmit buffer");
    log.last_lines(10)
}

#[test]
fn records_what_the_guest_prints() {
    assert_eq!(log_of(&[(0x10_0000, 5, NEXT, 1), (0x10_0005, 6, 0, 0)]), ["hello world"]);
}

#[test]
fn chains_that_cannot_be_read_record_nothing() {
    for (address, length, flags) in
        [(0x10_0000, 5, WRITE), (0x10_0000, 0, 0), (64 << 20, 64, 0), ((64 << 20) - 8, 64, 0), (u64::MAX, u32::MAX, 0)]
    {
        assert!(log_of(&[(address, length, flags, 0)]).is_empty(), "{address:#x} {length} {flags}");
    }
}

#[test]
fn a_loop_of_descriptors_ends() {
    let lines = log_of(&[(0x10_0000, 11, NEXT, 1), (0x10_0000, 11, NEXT, 0)]);
    assert!(lines.len() <= 1);
}
