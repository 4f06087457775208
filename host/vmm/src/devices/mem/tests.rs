//! Requests that a driver may make, and those it may not.

use std::sync::{Arc, Mutex};

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::blocks::BLOCK;
use super::device::{Serve, Shared};
use super::request::{REQUEST_LEN, RESPONSE_LEN};
use super::{Mem, MemControl};
use crate::devices::kicked_queue::ChainHandler;
use crate::devices::{Activation, Interrupt, VirtioDevice, next_chain};
use crate::event_loop::EventLoop;
use crate::memory;

use vmm_sys_util::eventfd::EventFd;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const START: u64 = 4 << 30;
const LENGTH: u64 = 64 * BLOCK;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;

/// A device without a transport, whose guest is asked for `requested` bytes.
fn device(requested: u64) -> (Mem, MemControl, EventLoop) {
    let device_loop = EventLoop::start(Arc::new(|_| {})).unwrap();
    let (mem, control) = Mem::new(START, LENGTH, device_loop.handle());
    control.request(requested);
    (mem, control, device_loop)
}

fn word(mem: &Mem, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    mem.read_config(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn request_bytes(type_: u16, address: u64, blocks: u16) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..2].copy_from_slice(&type_.to_le_bytes());
    bytes[8..16].copy_from_slice(&address.to_le_bytes());
    bytes[16..18].copy_from_slice(&blocks.to_le_bytes());
    bytes
}

struct Driver(Serve, Vec<(u64, u64)>);

impl Driver {
    fn new(requested: u64) -> Driver {
        let shared = Shared::new(START, LENGTH);
        shared.lock().unwrap().request(requested);
        Driver(Serve(shared), Vec::new())
    }

    fn shared(&self) -> &Arc<Mutex<Shared>> {
        &self.0.0
    }

    /// Type and state of the answer.
    fn ask(&mut self, type_: u16, address: u64, blocks: u16) -> (u16, u16) {
        let request = super::request::Request::parse(&request_bytes(type_, address, blocks));
        let released = &mut self.1;
        let mut shared = self.0.0.lock().unwrap();
        let bytes = shared.carry_out(request, |address, length| released.push((address, length))).to_bytes();
        (u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[8], bytes[9]]))
    }

    fn plugged(&self) -> u64 {
        let config = self.shared().lock().unwrap().config();
        u64::from_le_bytes(config[40..48].try_into().unwrap())
    }
}

#[test]
fn as_much_is_plugged_as_was_asked_for() {
    let mut driver = Driver::new(4 * BLOCK);
    assert_eq!(driver.ask(PLUG, START, 3), (ACK, 0));
    assert_eq!(driver.ask(PLUG, START + 3 * BLOCK, 2), (NACK, 0), "more than requested");
    assert_eq!(driver.ask(PLUG, START + 63 * BLOCK, 1), (ACK, 0), "anywhere in the region");
    assert_eq!(driver.ask(PLUG, START + 5 * BLOCK, 1), (NACK, 0));
    assert_eq!(driver.plugged(), 4 * BLOCK);
    assert_eq!(driver.ask(STATE, START, 3), (ACK, 0));
    assert_eq!(driver.ask(STATE, START + 3 * BLOCK, 60), (ACK, 1));
    assert_eq!(driver.ask(STATE, START, 64), (ACK, 2));
    assert_eq!(driver.ask(UNPLUG, START + BLOCK, 2), (ACK, 0));
    assert_eq!(driver.plugged(), 2 * BLOCK);
    assert_eq!(driver.ask(UNPLUG_ALL, 0, 0), (ACK, 0));
    assert_eq!(driver.plugged(), 0);
    assert_eq!(driver.1, [(START + BLOCK, 2 * BLOCK), (START, LENGTH)]);
    assert_eq!(driver.ask(PLUG, START, 4), (ACK, 0));
}

#[test]
fn requests_that_make_no_sense_change_nothing() {
    let mut driver = Driver::new(LENGTH);
    assert_eq!(driver.ask(PLUG, START + 2 * BLOCK, 2), (ACK, 0));
    for (address, blocks) in [
        (START, 0),
        (START, 65),
        (START, u16::MAX),
        (START + 1, 1),
        (START + BLOCK / 2, 1),
        (START + LENGTH, 1),
        (START + LENGTH - BLOCK, 2),
        (START - BLOCK, 1),
        (0, 1),
        (u64::MAX, u16::MAX),
        (!(BLOCK - 1), 1),
    ] {
        for type_ in [PLUG, UNPLUG, STATE, 4, u16::MAX] {
            assert_eq!(driver.ask(type_, address, blocks), (ERROR, 0), "{type_} {address:#x} {blocks}");
        }
    }
    // Some of it is plugged, or is not.
    for (type_, block, count) in
        [(PLUG, 2, 1), (PLUG, 1, 2), (PLUG, 0, 62), (UNPLUG, 0, 1), (UNPLUG, 1, 2), (UNPLUG, 3, 2)]
    {
        assert_eq!(driver.ask(type_, START + block * BLOCK, count), (ERROR, 0), "{type_} {block} {count}");
    }
    assert_eq!(driver.plugged(), 2 * BLOCK);
    assert!(driver.1.is_empty());
}

/// What the device writes for one chain, with the request at the first address.
fn chain(descriptors: &[(u64, u32, u16, u16)]) -> (u32, u64) {
    let memory = memory::allocate(64).unwrap();
    memory.write_slice(&request_bytes(PLUG, START, 1), GuestAddress(0x10_0000)).unwrap();
    let raw: Vec<RawDescriptor> =
        descriptors.iter().map(|(a, l, f, n)| RawDescriptor::from(Descriptor::new(*a, *l, *f, *n))).collect();
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    mock.add_desc_chains(&raw, 0).unwrap();
    let mut queue: Queue = mock.create_queue().unwrap();
    queue.set_ready(true);
    let chain = next_chain(&mut queue, &memory).unwrap().expect("a chain");
    let mut driver = Driver::new(LENGTH);
    let written = driver.0.handle(chain, &memory);
    (written, driver.plugged())
}

#[test]
fn a_chain_is_a_request_and_room_for_the_answer() {
    let (request, answer) = (REQUEST_LEN as u32, RESPONSE_LEN as u32);
    let place = 0x20_0000;
    assert_eq!(chain(&[(0x10_0000, request, NEXT, 1), (place, answer, WRITE, 0)]), (answer, BLOCK));
    assert_eq!(chain(&[(0x10_0000, request, NEXT, 1), (place, 4096, WRITE, 0)]), (answer, BLOCK));
    let pieces = [(0x10_0000, 5, NEXT, 1), (0x10_0005, 19, NEXT, 2), (place, 3, WRITE | NEXT, 3), (place, 7, WRITE, 0)];
    assert_eq!(chain(&pieces), (answer, BLOCK));
    for broken in [
        &[(0x10_0000, request, 0, 0)][..],
        &[(place, answer, WRITE, 0)],
        &[(0x10_0000, request - 1, NEXT, 1), (place, answer, WRITE, 0)],
        &[(0x10_0000, request, NEXT, 1), (place, answer - 1, WRITE, 0)],
        &[(0x10_0000, request, NEXT, 1), (64 << 20, answer, WRITE, 0)],
        &[(64 << 20, request, NEXT, 1), (place, answer, WRITE, 0)],
        &[(u64::MAX - 8, u32::MAX, NEXT, 1), (place, answer, WRITE, 0)],
        &[(0x10_0000, request, NEXT, 1), (place, answer, 0, 0)],
        &[(0x10_0000, 0, NEXT, 1), (place, 0, WRITE, 0)],
    ] {
        assert_eq!(chain(broken), (0, 0), "{broken:?}");
    }
}

#[test]
fn the_configuration_says_what_is_asked_for() {
    let (mem, control, _loop) = device(0);
    assert_eq!((word(&mem, 0), word(&mem, 16), word(&mem, 24), word(&mem, 32)), (BLOCK, START, LENGTH, LENGTH));
    assert_eq!((word(&mem, 40), word(&mem, 48)), (0, 0));
    let before = mem.config_generation();
    control.request(3 * BLOCK + 5);
    assert_eq!((word(&mem, 48), control.requested()), (3 * BLOCK, 3 * BLOCK));
    assert_ne!(mem.config_generation(), before);
    control.request(BLOCK);
    assert_eq!(word(&mem, 48), 3 * BLOCK, "a guest is never asked to shrink");
    control.request(u64::MAX);
    assert_eq!(word(&mem, 48), LENGTH);
}

#[test]
fn a_driver_is_told_of_each_request() {
    let (mut mem, control, _loop) = device(0);
    let memory = memory::allocate(64).unwrap();
    let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mock = MockSplitQueue::new(memory.as_ref(), 16);
    let mut queue: Queue = mock.create_queue().unwrap();
    queue.set_ready(true);
    assert!(queue.is_valid(memory.as_ref()));
    let activation = Activation {
        memory: Arc::clone(&memory),
        queues: vec![queue],
        kicks: vec![EventFd::new(libc::EFD_NONBLOCK).unwrap()],
        interrupt: Arc::clone(&interrupt),
        features: mem.features(),
    };
    mem.activate(activation).unwrap();
    control.request(BLOCK);
    assert_eq!(interrupt.status(), 2);
    interrupt.acknowledge(2);
    control.request(BLOCK);
    assert_eq!(interrupt.status(), 0);
    mem.reset();
    control.request(2 * BLOCK);
    assert_eq!(interrupt.status(), 0, "nobody is there");
}
