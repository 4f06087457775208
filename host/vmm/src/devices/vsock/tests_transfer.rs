//! Much data through small windows.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::muxer::WINDOW;
use super::packet::{SHUTDOWN_BOTH, SHUTDOWN_SEND, op};
use super::tests_driver::*;

fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// 100 MiB to the guest and back, with windows that hold only a packet or two.
#[test]
fn a_hundred_mebibytes_arrive_unchanged() {
    const TOTAL: usize = 100 << 20;
    let begin = Instant::now();
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 5000);
    let mut reader = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let (mut sum, mut sent, mut random) = (0, 0, Random(1));
        let mut block = vec![0; 64 << 10];
        while sent < TOTAL {
            block.chunks_mut(8).for_each(|eight| eight.copy_from_slice(&random.next().to_le_bytes()));
            let len = (1 + random.below(64 << 10) as usize).min(TOTAL - sent);
            sum = checksum(sum, &block[..len]);
            client.write_all(&block[..len]).unwrap();
            sent += len;
        }
        client.shutdown(Shutdown::Write).unwrap();
        sum
    });
    let receiver = std::thread::spawn(move || {
        let (mut sum, mut total) = (0, 0);
        let mut block = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut block).unwrap();
            if count == 0 {
                return (sum, total);
            }
            sum = checksum(sum, &block[..count]);
            total += count;
        }
    });
    let (mut sum, mut total, mut echoed, mut packets) = (0, 0, 0u32, 0);
    let mut fwd;
    // Received, and not yet sent back.
    let mut waiting: VecDeque<Vec<u8>> = VecDeque::new();
    let mut ended = false;
    while !ended || !waiting.is_empty() {
        let (header, data) = driver.recv();
        packets += 1;
        fwd = header.fwd_cnt;
        match header.op {
            op::RW => {
                sum = checksum(sum, &data);
                total += data.len();
                waiting.push_back(data);
                let held: usize = waiting.iter().map(Vec::len).sum();
                assert!(held <= 5000, "no credit was given for {held} bytes");
            }
            op::SHUTDOWN => {
                assert_eq!(header.flags, SHUTDOWN_SEND);
                ended = true;
            }
            op::CREDIT_UPDATE | op::CREDIT_REQUEST => {}
            _ => panic!("{header:?}"),
        }
        while let Some(len) = waiting.front().map(|data| data.len() as u32) {
            if echoed.wrapping_add(len).wrapping_sub(fwd) > WINDOW {
                break;
            }
            let data = waiting.pop_front().unwrap_or_default();
            echoed = echoed.wrapping_add(len);
            socket.forwarded = socket.forwarded.wrapping_add(len);
            driver.send(socket.rw(data.len()), &data);
        }
    }
    driver.send(socket.shutdown(SHUTDOWN_BOTH), &[]);
    let expected = writer.join().unwrap();
    assert_eq!((sum, total), (expected, TOTAL));
    assert_eq!(receiver.join().unwrap(), (expected, TOTAL));
    println!("{TOTAL} bytes to and fro in {packets} packets, {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(120));
}
