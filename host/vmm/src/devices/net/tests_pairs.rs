//! Several queue pairs, and the control queue by which the driver says how many it uses.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::QueuePair;
use super::header::*;
use super::tests_driver::*;
use super::tests_hostile::{TABLE, malformed, write_table};
use super::tests_tap::{PORT, datagram, is_ours, on_a_thread, queues};
use crate::devices::{F_EVENT_IDX, F_VERSION_1, VirtioDevice};

const SEVERAL: u64 = F_VERSION_1 | F_EVENT_IDX | F_CTRL_VQ | F_MQ;
const PAIRS: usize = 4;
/// The control queue's ring.
const CONTROL: usize = 2 * PAIRS;

/// Asserts that frames go both ways by the first `used` pairs and by no others.
fn expect_used(driver: &mut Driver, hosts: &[std::os::unix::net::UnixDatagram], used: usize) {
    for (pair, host) in hosts.iter().enumerate().take(used) {
        let mut bytes = [0; 2000];
        let sent = frame(100 + pair);
        driver.send_by(pair, &sent);
        let len = host.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..len], sent, "{pair}");
        host.send(&frame(200 + pair)).unwrap();
        assert_eq!(driver.receive_by(pair, PATIENCE), Some(in_buffers(frame(200 + pair), 1).0), "{pair}");
    }
    for (pair, host) in hosts.iter().enumerate().skip(used) {
        host.send(&frame(300)).unwrap();
        assert_eq!(driver.receive_by(pair, QUIET), None, "{pair}");
        // It waits there.
        driver.force_kick(2 * pair + TX);
    }
    driver.expect_idle();
    assert!(!driver.interrupt.needs_reset());
}

#[test]
fn offers_as_many_pairs_as_the_tap_has_queues() {
    let (driver, _hosts) = Driver::with_pairs(PAIRS, SEVERAL);
    assert_eq!(driver.device.queue_sizes(), [256, 256, 256, 256, 256, 256, 256, 256, 16]);
    assert_eq!(driver.device.features(), 1 << 32 | 1 << 29 | 1 << 28 | 0xbba3 | 1 << 17 | 1 << 22);
    let mut config = [0xff; 12];
    driver.device.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 7, 0, 0, 4, 0, 0xff, 0xff]);
    let in_use = [F_VERSION_1, F_VERSION_1 | F_CTRL_VQ, SEVERAL].map(|features| driver.device.queues_in_use(features));
    assert_eq!(in_use, [2, 3, 9]);
    // Of more, the first.
    let (driver, _hosts) = Driver::with_pairs(PAIRS + 1, SEVERAL);
    assert_eq!(driver.device.queue_sizes().len(), 9);
    // A device with one has neither the features nor the queue.
    let (driver, _hosts) = Driver::with_pairs(1, F_VERSION_1);
    assert_eq!((driver.device.queue_sizes().len(), driver.device.features() & (F_CTRL_VQ | F_MQ)), (2, 0));
}

#[test]
fn the_driver_says_how_many_pairs_it_uses() {
    let (mut driver, hosts) = Driver::with_pairs(PAIRS, SEVERAL);
    for _ in 0..3 {
        expect_used(&mut driver, &hosts, 1);
        for wrong in [0, 5, 256, u16::MAX] {
            assert!(!driver.use_pairs(wrong), "{wrong}");
        }
        expect_used(&mut driver, &hosts, 1);
        // What is no tap cannot take queues out; those in use go on.
        assert!(driver.use_pairs(4));
        // What waited for them comes first.
        for pair in 1..PAIRS {
            for _ in 0..2 {
                assert_eq!(driver.receive_by(pair, PATIENCE), Some(in_buffers(frame(300), 1).0));
            }
        }
        expect_used(&mut driver, &hosts, PAIRS);
        assert!(!driver.use_pairs(2));
        expect_used(&mut driver, &hosts, PAIRS);
        // With the reset it has said nothing.
        driver.activate();
    }
}

#[test]
fn other_commands_are_refused() {
    let (mut driver, hosts) = Driver::with_pairs(PAIRS, SEVERAL);
    let set: [&[u8]; 9] = [
        &[4],
        &[4, 0],
        &[4, 0, 4],
        &[4, 0, 4, 0, 0],
        &[4, 1, 4, 0],
        &[0, 0, 4, 0],
        &[1, 0, 2, 0, 0, 0, 0, 7],
        &[255; 4],
        &[4; 0x1000],
    ];
    for command in set {
        assert_eq!(driver.command(command), 1, "{command:?}");
    }
    expect_used(&mut driver, &hosts, 1);
}

#[test]
fn a_driver_without_several_pairs_has_one() {
    // The control queue is the third one then, and there is nothing to be commanded.
    for features in [F_VERSION_1 | F_EVENT_IDX, F_VERSION_1 | F_EVENT_IDX | F_CTRL_VQ] {
        let (mut driver, hosts) = Driver::with_pairs(PAIRS, features);
        if features & F_CTRL_VQ != 0 {
            assert!(!driver.use_pairs(1));
        }
        expect_used(&mut driver, &hosts[..1], 1);
    }
}

#[test]
fn commands_that_are_none_are_given_back() {
    for flags in [0, WRITE] {
        let (mut driver, hosts) = Driver::with_pairs(PAIRS, SEVERAL);
        let mut cases = malformed(flags);
        cases.push(("the answer first", vec![(FREE, 1, WRITE | NEXT, 1), (FREE, 4, 0, 0)], vec![]));
        cases.push(("no place for the answer", vec![(FREE, 4, NEXT, 1), (FREE, 0, WRITE, 0)], vec![]));
        cases.push(("all of memory", vec![(0, MEMORY as u32, NEXT, 1), (FREE, 1, WRITE, 0)], vec![]));
        for (what, descs, table) in &cases {
            write_table(&driver, table);
            driver.put_chain(CONTROL, 0, descs);
            driver.force_kick(CONTROL);
            let (head, written) = driver.wait_used(CONTROL);
            assert!(head == 0 && written <= 1, "{what}: {written}");
            assert!(driver.use_pairs(1), "{what}");
        }
        expect_used(&mut driver, &hosts, 1);
    }
}

#[test]
fn a_command_may_be_cut_anywhere() {
    let (mut driver, hosts) = Driver::with_pairs(PAIRS, SEVERAL);
    driver.memory.write_slice(&[4, 0, 4, 0], GuestAddress(FREE)).unwrap();
    let descs = [
        (FREE, 1, NEXT, 1),
        (FREE + 1, 0, NEXT, 2),
        (FREE + 1, 2, NEXT, 3),
        (FREE + 3, 1, NEXT, 4),
        (FREE + 9, 0, NEXT | WRITE, 5),
        (FREE + 10, 100, WRITE, 0),
    ];
    for (index, desc) in descs.iter().enumerate() {
        driver.write_desc(TABLE, index as u16, *desc);
    }
    driver.put_chain(CONTROL, 0, &descs);
    driver.put_chain(CONTROL, 7, &[(TABLE, 16 * descs.len() as u32, INDIRECT, 0)]);
    driver.kick(CONTROL);
    assert_eq!((driver.wait_used(CONTROL), driver.wait_used(CONTROL)), ((0, 1), (7, 1)));
    assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(FREE + 10)).unwrap(), 0);
    expect_used(&mut driver, &hosts, PAIRS);
}

#[test]
fn a_control_ring_that_is_none_needs_a_reset() {
    let (mut driver, hosts) = Driver::with_pairs(PAIRS, SEVERAL);
    for round in 0..4 {
        assert!(driver.use_pairs(4));
        match round {
            0 => driver.publish(CONTROL, 256),
            1 => driver.publish(CONTROL, u16::MAX),
            2 => driver.put_avail_idx(CONTROL, 300),
            _ => driver.publish(2 * 3 + TX, 256),
        }
        driver.force_kick(CONTROL);
        driver.force_kick(2 * 3 + TX);
        driver.wait_needs_reset();
        for ring in 0..=CONTROL {
            driver.force_kick(ring);
        }
        driver.expect_idle();
        driver.activate();
        expect_used(&mut driver, &hosts[..1], 1);
    }
}

/// The same again and again, as fast as the device takes it.
#[test]
fn commands_without_end_leave_room_for_others() {
    let (mut driver, hosts) = Driver::with_pairs(2, SEVERAL);
    let ring = 4;
    driver.memory.write_slice(&[4, 0, 2, 0], GuestAddress(FREE + 0x8000)).unwrap();
    let base = 0x10000 * (ring as u64 + 1);
    driver.write_desc(base, 0, (FREE + 0x8000, 4, NEXT, 1));
    driver.write_desc(base, 1, (FREE + 0x9000, 1, WRITE, 0));
    let stop = Arc::new(AtomicBool::new(false));
    let (memory, kick, done) = (Arc::clone(&driver.memory), driver.kicks[ring].try_clone().unwrap(), Arc::clone(&stop));
    let flood = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            let used: u16 = memory.load(GuestAddress(base + 0x2002), Ordering::Acquire).unwrap();
            memory.store(used.wrapping_add(SIZE), GuestAddress(base + 0x1002), Ordering::Release).unwrap();
            let _ = kick.write(1);
        }
    });
    let begin = Instant::now();
    while driver.used_idx(ring) == 0 {
        assert!(begin.elapsed() < PATIENCE);
    }
    for _ in 0..20 {
        for (pair, host) in hosts.iter().enumerate() {
            driver.send_by(pair, &frame(200));
            assert_eq!(host.recv(&mut [0; 300]).unwrap(), 200);
        }
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(!driver.interrupt.needs_reset());
}

/// The data of the next datagram that comes by a pair, from among what the kernel has to say on a new interface.
fn datagram_by(driver: &mut Driver, pair: usize, timeout: Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    loop {
        let frame = driver.receive_by(pair, deadline.saturating_duration_since(Instant::now()))?;
        if is_ours(&frame) {
            return Some(frame[54..].to_vec());
        }
    }
}

/// A driver of a real tap, and a socket on its other side.
fn driver_of_queues(count: usize) -> Option<(Driver, UdpSocket)> {
    let pairs = queues(count)?.into_iter().map(|tap| {
        let vhost = std::fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-net").ok();
        QueuePair { tap, vhost: vhost.map(Into::into) }
    });
    let driver = Driver::of_pairs(pairs.collect(), SEVERAL);
    let socket = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Some((driver, socket))
}

/// What the guest sends by a pair reaches the host, and the answer comes by `back`.
fn exchange(driver: &mut Driver, socket: &UdpSocket, pair: usize, back: usize) {
    let mut bytes = [0; 100];
    driver.send_by(pair, &datagram(&[pair as u8; 20], false));
    let (len, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(bytes[..len], [pair as u8; 20]);
    socket.send_to(&[7; 30], from).unwrap();
    assert_eq!(datagram_by(driver, back, PATIENCE), Some(vec![7; 30]), "{pair}");
}

#[test]
fn answers_come_by_the_pair_of_the_question() {
    on_a_thread(|| {
        let Some((mut driver, socket)) = driver_of_queues(PAIRS) else { return };
        for _ in 0..2 {
            assert!(driver.use_pairs(4));
            for pair in [0, 3, 1, 2, 0] {
                exchange(&mut driver, &socket, pair, pair);
            }
            // Fewer: the queues behind are out of use, and nothing is lost in them.
            for used in [2, 1, 3, 4] {
                assert!(driver.use_pairs(used));
                for pair in 0..usize::from(used) {
                    exchange(&mut driver, &socket, pair, pair);
                }
            }
            assert!(driver.use_pairs(1));
            exchange(&mut driver, &socket, 0, 0);
            driver.expect_idle();
            driver.activate();
        }
        // A driver that knows of one pair only gets everything by that.
        assert!(driver.use_pairs(4));
        exchange(&mut driver, &socket, 3, 3);
        driver.features = F_VERSION_1 | F_EVENT_IDX;
        driver.activate();
        // What is in a queue when it goes out of use is lost: the tap is told a moment after the change before.
        driver.expect_idle();
        for _ in 0..5 {
            socket.send_to(&[7; 30], "10.9.0.2:7000").unwrap();
            assert_eq!(datagram_by(&mut driver, 0, PATIENCE), Some(vec![7; 30]));
        }
    });
}

#[test]
fn a_driver_that_changes_its_mind_without_end_waits() {
    on_a_thread(|| {
        let Some((mut driver, socket)) = driver_of_queues(2) else { return };
        let begin = Instant::now();
        for round in 0..10 {
            assert!(driver.use_pairs(1 + round % 2));
        }
        // The first change comes at once.
        assert!(begin.elapsed() > Duration::from_millis(850), "{:?}", begin.elapsed());
        // While one waits, frames go on, and a reset finds it waiting.
        assert!(driver.use_pairs(1));
        driver.memory.write_slice(&[4, 0, 2, 0], GuestAddress(FREE + 0x8000)).unwrap();
        driver.put_chain(4, 0, &[(FREE + 0x8000, 4, NEXT, 1), (FREE + 0x9000, 1, WRITE, 0)]);
        driver.kick(4);
        exchange(&mut driver, &socket, 0, 0);
        driver.activate();
        exchange(&mut driver, &socket, 0, 0);
        assert!(driver.use_pairs(2));
        exchange(&mut driver, &socket, 1, 1);
        // No queue of the tap is there any more.
        drop(socket);
        super::tests_tap::ip("link delete tap0");
        std::thread::sleep(Duration::from_millis(100));
        assert!(!driver.use_pairs(1));
        driver.expect_idle();
        assert!(!driver.interrupt.needs_reset());
    });
}
