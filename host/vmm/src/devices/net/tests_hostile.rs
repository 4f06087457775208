//! Guests that break the rules of the queues.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::header::*;
use super::tests_driver::*;
use crate::devices::F_VERSION_1;
use vm_memory::{Bytes, GuestAddress};

const LEN: u32 = 100;
const END: u64 = MEMORY as u64;
/// An indirect table, in memory that nothing else uses.
pub(super) const TABLE: u64 = FREE + 0x10_0000;

/// Chains that are none, for a queue whose descriptors have `flags`; with what is in the indirect table.
pub(super) fn malformed(flags: u16) -> Vec<(&'static str, Vec<Desc>, Vec<Desc>)> {
    let other = flags ^ WRITE;
    let (open, long) = (flags | NEXT, (0..1000).map(|i| (FREE, 1, flags | NEXT, i + 1)).collect());
    let direct: Vec<(&str, Vec<Desc>)> = vec![
        ("wrong direction", vec![(FREE, LEN, other, 0)]),
        ("wrong direction later", vec![(FREE, LEN, open, 1), (FREE, LEN, other, 0)]),
        ("empty", vec![(FREE, 0, flags, 0)]),
        ("all empty", vec![(FREE, 0, open, 1), (FREE, 0, flags, 0)]),
        ("shorter than a header", vec![(FREE, HEADER_LEN as u32 - 1, flags, 0)]),
        ("in pieces, shorter than a header", vec![(FREE, 5, open, 1), (FREE, 6, flags, 0)]),
        ("across the end of memory", vec![(END - 10, LEN, flags, 0)]),
        ("beyond memory", vec![(END, LEN, flags, 0)]),
        ("address overflow", vec![(u64::MAX - 4, LEN, flags, 0)]),
        ("length u32::MAX", vec![(FREE, u32::MAX, flags, 0)]),
        ("more than 4 GiB", vec![(FREE, LEN, open, 1), (FREE, u32::MAX, open, 0)]),
        ("loop of one", vec![(FREE, LEN, open, 0)]),
        ("loop of two", vec![(FREE, LEN, open, 1), (FREE, 1, open, 0)]),
        ("next out of range", vec![(FREE, LEN, open, 300)]),
        ("indirect, odd length", vec![(TABLE, 17, INDIRECT, 0)]),
        ("indirect, empty", vec![(TABLE, 0, INDIRECT, 0)]),
        ("indirect, beyond memory", vec![(END - 8, 32, INDIRECT, 0)]),
        ("indirect, huge", vec![(TABLE, u32::MAX - 15, INDIRECT, 0)]),
    ];
    let mut all: Vec<_> = direct.into_iter().map(|(what, descs)| (what, descs, Vec::new())).collect();
    all.push(("indirect, too long", vec![(TABLE, 16_000, INDIRECT, 0)], long));
    all.push(("indirect, loop", vec![(TABLE, 32, INDIRECT, 0)], vec![(FREE, LEN, open, 1), (FREE, 1, open, 0)]));
    all.push(("indirect in indirect", vec![(TABLE, 16, INDIRECT, 0)], vec![(TABLE + 0x8000, 16, INDIRECT, 0)]));
    all
}

pub(super) fn write_table(driver: &Driver, table: &[Desc]) {
    for (index, desc) in table.iter().enumerate() {
        driver.write_desc(TABLE, index as u16, *desc);
    }
}

fn expect_frame(host: &UnixDatagram, expected: &[u8]) {
    let mut bytes = vec![0; 1 << 17];
    let len = host.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], expected);
}

#[test]
fn transmit_chains_that_are_none_are_given_back() {
    let (mut driver, host, _) = Driver::new(MERGING);
    let mut cases = malformed(0);
    cases.push(("shorter than a frame", vec![(FREE, FRAME_MIN as u32 - 1, 0, 0)], vec![]));
    cases.push(("longer than a frame", vec![(FREE, FRAME_MAX as u32 + 1, 0, 0)], vec![]));
    cases.push(("all of memory", vec![(0, END as u32, 0, 0)], vec![]));
    for (what, descs, table) in &cases {
        write_table(&driver, table);
        driver.put_chain(TX, 0, descs);
        driver.force_kick(TX);
        assert_eq!(driver.wait_used(TX), (0, 0), "{what}");
        // What comes out next is what is sent next.
        driver.send(&frame(200));
        expect_frame(&host, &frame(200));
    }
    driver.expect_idle();
    assert!(!driver.interrupt.needs_reset());
}

#[test]
fn receive_chains_that_are_none_are_passed_over() {
    for features in [MERGING, F_VERSION_1] {
        let (mut driver, host, _) = Driver::new(features);
        for (what, descs, table) in &malformed(WRITE) {
            write_table(&driver, table);
            driver.put_chain(RX, 0, descs);
            host.send(&frame(300)).unwrap();
            driver.force_kick(RX);
            assert_eq!(driver.wait_used(RX), (0, 0), "{what}");
            driver.put_chain(RX, 7, &[(FREE + 0x8000, 2000, WRITE, 0)]);
            driver.kick(RX);
            assert_eq!(driver.wait_used(RX), (7, 300), "{what}");
        }
        driver.expect_idle();
        assert!(!driver.interrupt.needs_reset());
    }
}

#[test]
fn a_malformed_chain_amid_the_buffers_of_a_frame_is_no_part_of_it() {
    let (mut driver, host, _) = Driver::new(MERGING);
    driver.put_chain(RX, 3, &[(FREE, 150, WRITE, 0)]);
    driver.put_chain(RX, 4, &[(FREE, 150, 0, 0)]);
    driver.put_chain(RX, 5, &[(FREE + 0x1000, 150, WRITE, 0)]);
    driver.kick(RX);
    host.send(&frame(300)).unwrap();
    assert_eq!(driver.wait_used(RX), (4, 0));
    assert_eq!((driver.wait_used(RX), driver.wait_used(RX)), ((3, 150), (5, 150)));
}

/// Asserts that the device asks for a reset and sleeps until then, and works after it.
fn expect_broken(driver: &mut Driver, host: &UnixDatagram, what: &str) {
    println!("{what}");
    driver.wait_needs_reset();
    let used = [driver.used_idx(RX), driver.used_idx(TX)];
    driver.put_chain(TX, 0, &[(FREE, LEN, 0, 0)]);
    driver.put_chain(RX, 0, &[(FREE, LEN, WRITE, 0)]);
    driver.force_kick(TX);
    driver.force_kick(RX);
    host.send(&frame(60)).unwrap();
    driver.expect_idle();
    assert_eq!(used, [driver.used_idx(RX), driver.used_idx(TX)], "{what}");
    driver.activate();
    driver.give(8, 2000);
    // Which frames are still in the tap depends on when it broke.
    while driver.receive().0.len() != 60 {}
    driver.send(&frame(70));
    expect_frame(host, &frame(70));
    driver.activate();
}

#[test]
fn rings_that_are_none_need_a_reset() {
    let (mut driver, host, _) = Driver::new(MERGING);
    for head in [256, u16::MAX] {
        driver.publish(TX, head);
        driver.force_kick(TX);
        expect_broken(&mut driver, &host, "head out of range");
        driver.publish(RX, head);
        host.send(&frame(100)).unwrap();
        driver.force_kick(RX);
        expect_broken(&mut driver, &host, "head out of range");
    }
    for idx in [257, 32768, u16::MAX] {
        driver.put_avail_idx(TX, idx);
        expect_broken(&mut driver, &host, "jump of the available index");
        host.send(&frame(100)).unwrap();
        driver.put_avail_idx(RX, idx);
        expect_broken(&mut driver, &host, "jump of the available index");
    }
}

#[test]
fn a_chain_given_again_and_again_is_held_no_more_often_than_there_are_chains() {
    let (mut driver, host, _) = Driver::new(MERGING);
    host.send(&frame(FRAME_MAX)).unwrap();
    for _ in 0..20 {
        for _ in 0..16 {
            driver.put_chain(RX, 9, &[(FREE, 20, WRITE, 0)]);
        }
        driver.force_kick(RX);
        std::thread::sleep(Duration::from_millis(5));
    }
    driver.expect_idle();
    assert_eq!(driver.used_idx(RX), 0);
    // It was lost when a whole ring of them was not enough; the next one fits.
    host.send(&frame(100)).unwrap();
    for _ in 0..5 {
        assert_eq!(driver.wait_used(RX), (9, 20));
    }
}

/// A driver that feeds the receive queue as fast as it can must not keep the transmit queue, or other devices, from
/// being served.
#[test]
fn a_flood_of_useless_buffers_leaves_room_for_others() {
    let (mut driver, host, _) = Driver::new(MERGING);
    host.send(&frame(1000)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (memory, kick, done) = (Arc::clone(&driver.memory), driver.kicks[RX].try_clone().unwrap(), Arc::clone(&stop));
    driver.write_desc(0x10000, 0, (FREE, 100, 0, 0));
    let flood = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            let used: u16 = memory.load(GuestAddress(0x12002), Ordering::Acquire).unwrap();
            memory.store(used.wrapping_add(SIZE), GuestAddress(0x11002), Ordering::Release).unwrap();
            let _ = kick.write(1);
        }
    });
    let begin = Instant::now();
    while driver.used_idx(RX) == 0 {
        assert!(begin.elapsed() < PATIENCE);
    }
    for _ in 0..50 {
        driver.send(&frame(200));
        expect_frame(&host, &frame(200));
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    assert!(!driver.interrupt.needs_reset());
}

/// Numbers that are random enough, from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn random_chain(random: &mut Random, ring: usize) -> Vec<Desc> {
    let mut descs = Vec::new();
    for index in 0..1 + random.below(3) as u16 {
        let kind = random.below(60);
        let address = if kind == 0 { random.next() } else { FREE + random.below(0x1000) };
        let len = if kind == 1 { random.next() as u32 } else { random.below(400) as u32 };
        let mut flags = if (ring == RX) != (kind == 2) { WRITE } else { 0 };
        flags |= if random.below(2) == 0 { NEXT } else { 0 };
        flags |= if kind == 3 { random.next() as u16 } else { 0 };
        let next = if kind == 4 { random.next() as u16 } else { index + 1 };
        descs.push((address, len, flags, next));
    }
    descs.last_mut().unwrap().2 &= !NEXT;
    descs
}

/// Runs random chains, indices and frames through both queues.
#[test]
fn random_chains_do_no_harm() {
    let given = std::env::var("NET_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("NET_TEST_SEED={seed}");
    let mut random = Random(seed);
    let (mut driver, host, _) = Driver::new(MERGING);
    host.set_nonblocking(true).unwrap();
    let mut resets = 0;
    for _ in 0..12_000 {
        if driver.interrupt.needs_reset() {
            resets += 1;
            driver.features ^= if random.below(2) == 0 { F_MRG_RXBUF } else { 0 };
            driver.activate();
        }
        let ring = random.below(2) as usize;
        let descs = random_chain(&mut random, ring);
        driver.put_chain(ring, 0, &descs);
        driver.force_kick(ring);
        match random.below(300) {
            0 => driver.put_avail_idx(ring, random.next() as u16),
            1 => driver.publish(ring, random.next() as u16),
            _ => {}
        }
        let _ = host.send(&frame(HEADER_LEN + random.below(1000) as usize));
        let _ = host.recv(&mut [0; 2048]);
    }
    println!("{resets} resets");
    assert!(resets > 5);
    // Still there, and no busier than it should be.
    driver.activate();
    while host.recv(&mut [0; 2048]).is_ok() {}
    host.set_nonblocking(false).unwrap();
    driver.send(&frame(77));
    expect_frame(&host, &frame(77));
    driver.expect_idle();
}
