//! The device between a driver and a real tap, carried by this process and, where there is /dev/vhost-net, by the
//! kernel.
//!
//! A tap takes a network namespace of its own, and so root; others cannot run this, and it passes without having done
//! anything.

use std::fs::OpenOptions;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;

use super::header::*;
use super::tests_driver::*;
use super::tests_sys::open_tap;
use crate::devices::{F_EVENT_IDX, F_VERSION_1, VirtioDevice};

const HOST_MAC: &str = "02:00:00:00:00:01";
pub(super) const PORT: u16 = 7000;
const OFFLOADS: u64 = F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;

pub(super) fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// Sets up the host's side: 10.9.0.1; the guest is 10.9.0.2.
fn tap() -> Option<OwnedFd> {
    queues(1)?.pop()
}

/// The same, of a tap with so many queues.
pub(super) fn queues(count: usize) -> Option<Vec<OwnedFd>> {
    if let Err(err) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
        println!("not run: no network namespace: {err}");
        return None;
    }
    let queues = match (0..count).map(|_| open_tap(count > 1)).collect() {
        Ok(queues) => queues,
        Err(err) => {
            println!("not run: no tap: {err}");
            return None;
        }
    };
    ip(&format!("link set tap0 address {HOST_MAC} up"));
    ip("addr add 10.9.0.1/24 dev tap0");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:07 dev tap0");
    Some(queues)
}

/// A frame from the guest to `PORT` of the host, with a checksum that is left to the device if `offload`.
pub(super) fn datagram(data: &[u8], offload: bool) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(MAC);
    frame.extend([8, 0]);
    let udp_len = 8 + data.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    frame.extend(&ip);
    frame.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), udp_len.to_be_bytes()].concat());
    // Without offload, 0: none. With it, that of the pseudo header, which is completed.
    let pseudo = checksum(&ip[12..20], u32::from(udp_len) + 17);
    frame.extend(if offload { pseudo.to_be_bytes() } else { [0; 2] });
    frame.extend(data);
    if offload {
        frame[0] = 1;
        frame[6..10].copy_from_slice(&[34, 0, 6, 0]);
    }
    frame
}

/// The ones' complement sum of `bytes`, of an even number.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum: u32 = start + bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether a frame is a UDP datagram to the guest's `PORT`.
pub(super) fn is_ours(frame: &[u8]) -> bool {
    frame[24..26] == [8, 0] && frame[35] == 17 && frame[48..50] == PORT.to_be_bytes()
}

/// The next UDP datagram to the guest's `PORT`: its header's flags, and its data. The kernel has more to say on a new
/// interface.
fn receive_datagram(driver: &mut Driver) -> (u8, Vec<u8>) {
    loop {
        let (frame, count) = driver.receive();
        driver.give(usize::from(count), 1536);
        if is_ours(&frame) {
            return (frame[0], frame[54..].to_vec());
        }
    }
}

fn exchange(driver: &mut Driver, flags: u8) {
    let socket = UdpSocket::bind(("10.9.0.1", PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    driver.give(200, 1536);
    for round in 0..200u8 {
        let data = vec![round; 1 + usize::from(round)];
        socket.send_to(&data, ("10.9.0.2", PORT)).unwrap();
        assert_eq!(receive_datagram(driver), (flags, data.clone()));
        driver.send(&datagram(&data, driver.features & F_CSUM != 0 && round % 2 == 0));
        let mut bytes = [0; 2000];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], from.to_string().as_str()), (data.as_slice(), "10.9.0.2:7000"));
    }
}

/// Runs `test` on a thread that can have a network namespace of its own.
pub(super) fn on_a_thread(test: fn()) {
    std::thread::spawn(test).join().unwrap();
}

#[test]
fn datagrams_go_both_ways_over_a_tap() {
    on_a_thread(send_datagrams);
}

fn send_datagrams() {
    let kernels = OpenOptions::new().read(true).write(true).open("/dev/vhost-net");
    println!("vhost-net: {kernels:?}");
    for vhost in [None, kernels.ok()] {
        let with_vhost = vhost.is_some();
        let Some(tap) = tap() else { return };
        let mut driver = Driver::around(tap, vhost.map(OwnedFd::from), F_VERSION_1 | F_EVENT_IDX);
        for features in [0, OFFLOADS, OFFLOADS | F_MRG_RXBUF, F_MRG_RXBUF, 0] {
            driver.features = F_VERSION_1 | F_EVENT_IDX | features;
            driver.activate();
            assert_eq!(driver.interrupt.status() & 1 == 1, with_vhost);
            // The flag says that the checksum was left to the guest.
            exchange(&mut driver, u8::from(features & F_GUEST_CSUM != 0));
            driver.expect_idle();
        }
        driver.device.reset();
        driver.interrupt.acknowledge(u32::MAX);
        assert_eq!(driver.interrupt.status(), 0);
    }
}

#[test]
fn a_tap_that_is_deleted_leaves_the_device_asleep() {
    on_a_thread(delete_the_tap);
}

fn delete_the_tap() {
    let Some(tap) = tap() else { return };
    let mut driver = Driver::around(tap, None, MERGING);
    driver.give(8, 2000);
    ip("link delete tap0");
    driver.expect_idle();
    driver.send(&frame(100));
    driver.activate();
    driver.give(8, 2000);
    driver.expect_idle();
    assert!(!driver.interrupt.needs_reset());
}
