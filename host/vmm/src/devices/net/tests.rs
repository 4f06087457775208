//! Frames between a tap and a driver that keeps the rules.

use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::header::*;
use super::tests_driver::*;
use crate::devices::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};

/// What a driver takes that merges nothing.
const PLAIN: u64 = F_VERSION_1 | F_EVENT_IDX;

fn next_frame(host: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let len = host.recv(&mut bytes).expect("no frame from the guest");
    bytes.truncate(len);
    bytes
}

fn expect_no_frame(host: &UnixDatagram) {
    host.set_read_timeout(Some(QUIET)).unwrap();
    assert!(host.recv(&mut [0; 64]).is_err());
    host.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn identifies_itself() {
    let (driver, ..) = Driver::new(PLAIN);
    assert_eq!((driver.device.device_type(), driver.device.queue_sizes()), (1, [256, 256].as_slice()));
    assert_eq!(driver.device.features(), 1 << 32 | 1 << 29 | 1 << 28 | 0xbba3);
    let mut config = [0; 12];
    driver.device.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
    let mut config = [0; 4];
    driver.device.read_config(4, &mut config);
    assert_eq!(config, [0, 7, 0, 0]);
}

#[test]
fn frames_reach_the_host() {
    for features in [PLAIN, MERGING, F_VERSION_1] {
        let (mut driver, host, _) = Driver::new(features);
        for len in [FRAME_MIN, 60, 1526, FRAME_MAX] {
            driver.send(&frame(len));
            assert_eq!(next_frame(&host), frame(len));
        }
        for _ in 0..1000 {
            driver.send(&frame_with(100, 1, 1));
            assert_eq!(next_frame(&host), frame_with(100, 1, 1));
        }
    }
}

#[test]
fn a_frame_may_be_cut_anywhere() {
    let (mut driver, host, _) = Driver::new(MERGING);
    let sent = frame(200);
    driver.memory.write_slice(&sent, GuestAddress(FREE)).unwrap();
    let table = FREE + 0x10000;
    for pieces in [&[][..], &[12], &[1, 11], &[10, 100, 0, 20], &[1; 199], &[0, 200]] {
        let (mut descs, mut at): (Vec<Desc>, u64) = (Vec::new(), FREE);
        for (index, len) in pieces.iter().enumerate() {
            descs.push((at, *len as u32, NEXT, index as u16 + 1));
            at += *len as u64;
        }
        descs.push((at, (FREE + 200 - at) as u32, 0, 0));
        driver.put_chain(TX, 0, &descs);
        driver.kick(TX);
        assert_eq!(next_frame(&host), sent, "{pieces:?}");
        for (index, desc) in descs.iter().enumerate() {
            driver.write_desc(table, index as u16, *desc);
        }
        driver.put_chain(TX, 0, &[(table, 16 * descs.len() as u32, INDIRECT, 0)]);
        driver.kick(TX);
        assert_eq!(next_frame(&host), sent, "indirect {pieces:?}");
        assert_eq!((driver.wait_used(TX), driver.wait_used(TX)), ((0, 0), (0, 0)));
    }
}

#[test]
fn frames_reach_the_guest() {
    for features in [PLAIN, MERGING, F_VERSION_1, F_VERSION_1 | F_MRG_RXBUF] {
        let (mut driver, host, _) = Driver::new(features);
        driver.give(64, 70_000);
        for len in [FRAME_MIN, 60, 1526, FRAME_MAX] {
            host.send(&frame(len)).unwrap();
            assert_eq!(driver.receive(), in_buffers(frame(len), 1));
        }
        for _ in 0..1000 {
            host.send(&frame(100)).unwrap();
            assert_eq!(driver.receive(), in_buffers(frame(100), 1));
            driver.give(1, 2000);
        }
        driver.expect_idle();
    }
}

#[test]
fn large_frames_take_several_buffers() {
    for features in [MERGING, F_VERSION_1 | F_MRG_RXBUF] {
        let (mut driver, host, _) = Driver::new(features);
        for (len, buffer, count) in [(1001, 1000, 2), (5000, 1000, 5), (FRAME_MAX, 1536, 43), (300, 12, 25)] {
            driver.give(usize::from(count), buffer);
            host.send(&frame(len)).unwrap();
            assert_eq!(driver.receive(), in_buffers(frame(len), count));
        }
    }
}

#[test]
fn receive_buffers_may_be_cut_anywhere() {
    let (mut driver, host, _) = Driver::new(MERGING);
    // 7 bytes of header, then the other 5 and 95 more, then 200 in a chain of its own.
    driver.put_chain(RX, 0, &[(FREE, 7, NEXT | WRITE, 1), (FREE + 0x1000, 100, WRITE, 0)]);
    driver.put_chain(RX, 2, &[(FREE + 0x2000, 0, NEXT | WRITE, 3), (FREE + 0x3000, 300, WRITE, 0)]);
    driver.kick(RX);
    host.send(&frame(307)).unwrap();
    assert_eq!((driver.wait_used(RX), driver.wait_used(RX)), ((0, 107), (2, 200)));
    let mut bytes = vec![0; 307];
    for (address, range) in [(FREE, 0..7), (FREE + 0x1000, 7..107), (FREE + 0x3000, 107..307)] {
        driver.memory.read_slice(&mut bytes[range], GuestAddress(address)).unwrap();
    }
    assert_eq!((bytes, 2), in_buffers(frame(307), 2));
}

#[test]
fn frames_wait_for_buffers_and_nothing_spins() {
    for features in [PLAIN, MERGING, F_VERSION_1] {
        let (mut driver, host, _) = Driver::new(features);
        for len in [100, 200, 300] {
            host.send(&frame(len)).unwrap();
        }
        driver.expect_idle();
        assert_eq!(driver.used_idx(RX), 0);
        driver.give(1, 2000);
        assert_eq!(driver.receive(), in_buffers(frame(100), 1));
        driver.expect_idle();
        // One interrupt for the two that come at once.
        let _ = driver.interrupt.irq().read();
        driver.give(2, 2000);
        while driver.used_idx(RX) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(QUIET);
        assert_eq!(driver.interrupt.irq().read().unwrap(), 1);
        assert_eq!(driver.receive(), in_buffers(frame(200), 1));
        assert_eq!(driver.receive(), in_buffers(frame(300), 1));
        driver.give(8, 2000);
        driver.expect_idle();
        host.send(&frame(400)).unwrap();
        assert_eq!(driver.receive(), in_buffers(frame(400), 1));
    }
}

#[test]
fn a_large_frame_waits_until_all_its_buffers_are_there() {
    let (mut driver, host, _) = Driver::new(MERGING);
    host.send(&frame(2500)).unwrap();
    for _ in 0..2 {
        driver.give(1, 1000);
        driver.expect_idle();
        assert_eq!(driver.used_idx(RX), 0);
    }
    driver.give(1, 1000);
    assert_eq!(driver.receive(), in_buffers(frame(2500), 3));
}

#[test]
fn a_frame_that_can_never_fit_is_lost() {
    // In no number of buffers that a driver can give; the buffers are for the frames after it.
    let (mut driver, host, _) = Driver::new(MERGING);
    driver.give(256, 20);
    host.send(&frame(6000)).unwrap();
    host.send(&frame(100)).unwrap();
    host.send(&frame(5020)).unwrap();
    assert_eq!(driver.receive(), in_buffers(frame(100), 5));
    assert_eq!(driver.receive(), in_buffers(frame(5020), 251));
    // In the one buffer that it has without F_MRG_RXBUF.
    let (mut driver, host, _) = Driver::new(PLAIN);
    driver.give(2, 1526);
    for len in [1527, 1526, FRAME_MAX, 30] {
        host.send(&frame(len)).unwrap();
    }
    assert_eq!(driver.receive(), in_buffers(frame(1526), 1));
    assert_eq!(driver.receive(), in_buffers(frame(30), 1));
    driver.expect_idle();
}

#[test]
fn what_is_no_frame_for_this_driver_is_lost() {
    let (mut driver, host, _) = Driver::new(PLAIN);
    driver.give(4, 70_000);
    for bytes in [vec![], frame(FRAME_MIN - 1), frame(FRAME_MAX + 1), frame_with(100, 1, 0), frame_with(100, 0, 1)] {
        host.send(&bytes).unwrap();
    }
    host.send(&frame_with(100, 2, 0)).unwrap();
    assert_eq!(driver.receive(), in_buffers(frame(100), 1));
    // One that takes more is given more.
    driver.features |= F_GUEST_CSUM | F_GUEST_TSO4;
    driver.activate();
    driver.give(4, 70_000);
    host.send(&frame_with(100, 1, 4)).unwrap();
    host.send(&frame_with(9000, 1, 1)).unwrap();
    assert_eq!(driver.receive(), in_buffers(frame_with(9000, 1, 1), 1));
}

#[test]
fn a_driver_that_resets_without_end_waits() {
    let (mut driver, host, _) = Driver::new(MERGING | F_GUEST_CSUM);
    for _ in 0..50 {
        driver.activate();
    }
    driver.expect_idle();
    driver.activate();
    driver.give(4, 2000);
    driver.send(&frame(300));
    assert_eq!(next_frame(&host), frame(300));
    host.send(&frame(200)).unwrap();
    assert_eq!(driver.receive(), in_buffers(frame(200), 1));
    // It is gone before its time comes.
    driver.activate();
    driver.device.reset();
    driver.expect_idle();
}

#[test]
fn a_tap_that_is_full_loses_frames() {
    let (mut driver, host, _) = Driver::new(PLAIN);
    for _ in 0..2000 {
        driver.send(&frame(1526));
    }
    for _ in 0..3 {
        assert_eq!(next_frame(&host), frame(1526));
    }
}

#[test]
fn all_frames_of_a_burst_are_sent() {
    let (mut driver, host, _) = Driver::new(MERGING);
    let counting = std::thread::spawn(move || (0..4 * 256).map(|_| next_frame(&host).len()).sum::<usize>());
    driver.memory.write_slice(&frame(60), GuestAddress(FREE)).unwrap();
    let mut lens = 0;
    for round in 0..4 {
        for head in 0..SIZE {
            driver.put_chain(TX, head, &[(FREE, 60, 0, 0)]);
        }
        driver.kick(TX);
        for _ in 0..SIZE {
            lens += driver.wait_used(TX).1;
        }
        println!("round {round}");
    }
    assert_eq!(lens, 0);
    // A socket's queue may be shorter than the burst: then some were lost, and the reader gets others in their place.
    while !counting.is_finished() {
        driver.send(&frame(60));
    }
    assert_eq!(counting.join().unwrap(), 4 * 256 * 60);
}

#[test]
fn both_ways_at_once() {
    for features in [MERGING, F_VERSION_1 | F_INDIRECT_DESC] {
        let (mut driver, host, _) = Driver::new(features);
        let echo = std::thread::spawn(move || {
            for _ in 0..3000 {
                let bytes = next_frame(&host);
                host.send(&bytes).unwrap();
            }
        });
        driver.give(100, 2000);
        for round in 0..3000usize {
            let sent = frame(FRAME_MIN + round % 1900);
            driver.send(&sent);
            assert_eq!(driver.receive(), in_buffers(sent, 1));
            driver.give(1, 2000);
        }
        echo.join().unwrap();
        driver.expect_idle();
    }
}

#[test]
fn a_reset_forgets_buffers_and_frames() {
    let (mut driver, host, _) = Driver::new(MERGING);
    driver.give(1, 1000);
    host.send(&frame(2500)).unwrap();
    std::thread::sleep(QUIET);
    driver.device.reset();
    let rings = driver.used_idx(RX);
    host.send(&frame(100)).unwrap();
    driver.force_kick(RX);
    std::thread::sleep(QUIET);
    assert_eq!(driver.used_idx(RX), rings, "a device that was reset touches nothing");
    for round in 0..3 {
        driver.activate();
        driver.give(4, 2000);
        if round == 0 {
            // It waited in the tap.
            assert_eq!(driver.receive(), in_buffers(frame(100), 1));
        }
        host.send(&frame(300)).unwrap();
        assert_eq!(driver.receive(), in_buffers(frame(300), 1));
        driver.send(&frame(400));
        assert_eq!(next_frame(&host), frame(400));
    }
}

#[test]
fn a_tap_that_is_gone_leaves_the_device_asleep() {
    for with_buffers in [false, true] {
        let (mut driver, host, device_end) = Driver::new(PLAIN);
        if with_buffers {
            driver.give(8, 2000);
        } else {
            host.send(&frame(100)).unwrap();
            std::thread::sleep(QUIET);
        }
        device_end.shutdown(Shutdown::Both).unwrap();
        driver.expect_idle();
        driver.give(8, 2000);
        if !with_buffers {
            assert_eq!(driver.receive(), in_buffers(frame(100), 1), "a frame in hand is delivered");
        }
        driver.send(&frame(100));
        expect_no_frame(&host);
        driver.force_kick(RX);
        driver.expect_idle();
        assert!(!driver.interrupt.needs_reset());
    }
}

#[test]
fn without_vhost_the_device_carries_the_frames() {
    let (tap, host) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    let not_vhost = std::fs::File::open("/dev/null").unwrap();
    let mut driver = Driver::around(tap.into(), Some(not_vhost.into()), MERGING);
    assert_eq!(driver.interrupt.status(), 0);
    driver.send(&frame(100));
    assert_eq!(next_frame(&host), frame(100));
}
