//! Guests that break the rules of the queues, and clients that do what clients should not.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::muxer::{MAX_FROM_GUEST, MAX_REFUSALS};
use super::packet::{HEADER_LEN, Header, op};
use super::tests_driver::*;
use vm_memory::{Bytes, GuestAddress};

const LEN: u32 = HEADER_LEN as u32;
const END: u64 = MEMORY as u64;
/// An indirect table, in memory that nothing else uses.
const TABLE: u64 = FREE + 0x10_0000;

/// Asserts that the device asks for a reset and sleeps until then, and works after it.
fn expect_broken(driver: &mut Driver, what: &str) {
    println!("{what}");
    driver.wait_needs_reset();
    // Kicked, it does nothing.
    let used = [driver.used_idx(RX), driver.used_idx(TX)];
    driver.put_chain(TX, &[(FREE, LEN, 0, 0)]);
    driver.put_chain(RX, &[(FREE, LEN, WRITE, 0)]);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(used, [driver.used_idx(RX), driver.used_idx(TX)], "{what}");
    driver.activate();
    driver.fill_rx();
    driver.ready();
    driver.connect(1025, 4096);
    driver.activate();
}

#[test]
fn chains_that_are_none_break_the_tx_queue() {
    let mut driver = Driver::new();
    let long: Vec<Desc> = (0..1000).map(|i| (FREE, 1, NEXT, i + 1)).collect();
    let nested = [(TABLE + 0x8000, 16, INDIRECT, 0)];
    let cases: &[(&str, &[Desc], &[Desc])] = &[
        ("write-only", &[(FREE, LEN, WRITE, 0)], &[]),
        ("write-only data", &[(FREE, LEN, NEXT, 1), (FREE, 10, WRITE, 0)], &[]),
        ("shorter than a header", &[(FREE, LEN - 1, 0, 0)], &[]),
        ("in pieces, shorter than a header", &[(FREE, 20, NEXT, 1), (FREE, 20, 0, 0)], &[]),
        ("empty", &[(FREE, 0, 0, 0)], &[]),
        ("across the end of memory", &[(END - 10, LEN, 0, 0)], &[]),
        ("beyond memory", &[(END, LEN, 0, 0)], &[]),
        ("address overflow", &[(u64::MAX - 4, LEN, 0, 0)], &[]),
        ("length u32::MAX", &[(FREE, u32::MAX, 0, 0)], &[]),
        ("more than 4 GiB", &[(FREE, LEN, NEXT, 1), (FREE, u32::MAX, NEXT, 0)], &[]),
        ("loop of one", &[(FREE, LEN, NEXT, 0)], &[]),
        ("loop of two", &[(FREE, LEN, NEXT, 1), (FREE, 1, NEXT, 0)], &[]),
        ("next out of range", &[(FREE, LEN, NEXT, 300)], &[]),
        ("indirect, too long", &[(TABLE, 16_000, INDIRECT, 0)], &long),
        ("indirect, loop", &[(TABLE, 32, INDIRECT, 0)], &[(FREE, LEN, NEXT, 1), (FREE, 1, NEXT, 0)]),
        ("indirect in indirect", &[(TABLE, 16, INDIRECT, 0)], &nested),
        ("indirect, odd length", &[(TABLE, 17, INDIRECT, 0)], &[(FREE, LEN, 0, 0)]),
        ("indirect, empty", &[(TABLE, 0, INDIRECT, 0)], &[(FREE, LEN, 0, 0)]),
        ("indirect, beyond memory", &[(END - 8, 32, INDIRECT, 0)], &[]),
        ("indirect, huge", &[(TABLE, u32::MAX - 15, INDIRECT, 0)], &[]),
    ];
    for (what, descs, table) in cases {
        for (index, desc) in table.iter().enumerate() {
            driver.write_desc(TABLE, index as u16, *desc);
        }
        driver.put_chain(TX, descs);
        expect_broken(&mut driver, what);
    }
    for head in [256, u16::MAX] {
        driver.put_head(TX, head);
        expect_broken(&mut driver, "head out of range");
    }
    for idx in [257, 32768, u16::MAX] {
        driver.put_avail_idx(TX, idx);
        expect_broken(&mut driver, "jump of the available index");
    }
}

#[test]
fn chains_that_are_none_break_the_rx_queue() {
    let mut driver = Driver::new();
    let cases: &[(&str, &[Desc])] = &[
        ("read-only", &[(FREE, 4096, 0, 0)]),
        ("read-only header", &[(FREE, LEN, NEXT, 1), (FREE, 4096, WRITE, 0)]),
        ("no room for a header", &[(FREE, LEN - 1, WRITE, 0)]),
        ("no room for data", &[(FREE, LEN, WRITE, 0)]),
        ("empty", &[(FREE, 0, WRITE, 0)]),
        ("across the end of memory", &[(END - 100, 4096, WRITE, 0)]),
        ("length u32::MAX", &[(FREE, u32::MAX, WRITE, 0)]),
        ("loop", &[(FREE, 4096, WRITE | NEXT, 0)]),
        ("next out of range", &[(FREE, 4096, WRITE | NEXT, 256)]),
    ];
    for (what, descs) in cases {
        driver.put_chain(RX, descs);
        driver.send(Driver::header(op::REQUEST, 1, READY_PORT), &[]);
        expect_broken(&mut driver, what);
    }
    driver.put_avail_idx(RX, 300);
    driver.send(Driver::header(op::REQUEST, 1, READY_PORT), &[]);
    expect_broken(&mut driver, "jump of the available index");
}

#[test]
fn a_broken_queue_ends_the_connections() {
    let mut driver = Driver::booted();
    let (client, _) = driver.connect(1025, 4096);
    let held = driver.client(1026);
    driver.expect(op::REQUEST);
    driver.put_chain(TX, &[(FREE, 1, 0, 0)]);
    driver.wait_needs_reset();
    assert_eq!(read_all(&client), b"");
    assert_eq!(read_all(&held), b"");
    driver.expect_idle();
}

/// Sends `packet`, cut as `pieces` say, some of them empty.
fn send_in_pieces(driver: &mut Driver, packet: &[u8], pieces: &[usize], indirect: bool) {
    driver.memory.write_slice(packet, GuestAddress(FREE)).unwrap();
    let (mut descs, mut at): (Vec<Desc>, u64) = (Vec::new(), FREE);
    for (index, len) in pieces.iter().enumerate() {
        descs.push((at, *len as u32, NEXT, index as u16 + 1));
        at += *len as u64;
    }
    descs.push((at, (packet.len() as u64 - (at - FREE)) as u32, 0, 0));
    if indirect {
        for (index, desc) in descs.iter().enumerate() {
            driver.write_desc(TABLE, index as u16, *desc);
        }
        descs = vec![(TABLE, 16 * descs.len() as u32, INDIRECT, 0)];
    }
    let before = driver.used_idx(TX);
    driver.put_chain(TX, &descs);
    let begin = Instant::now();
    while driver.used_idx(TX) == before {
        assert!(begin.elapsed() < PATIENCE && !driver.interrupt.needs_reset());
    }
}

#[test]
fn a_packet_may_be_cut_anywhere() {
    let mut driver = Driver::booted();
    let (mut client, socket) = driver.connect(1025, 4096);
    driver.sync();
    // The driver's own packets would use the same descriptors from here on.
    let mut packet = socket.rw(100).to_bytes().to_vec();
    packet.extend(0..100u8);
    // What goes beyond the header's length is not data.
    packet.extend([0xee; 50]);
    for indirect in [false, true] {
        for pieces in [&[][..], &[44], &[10, 34], &[43, 2], &[44, 0, 30, 0, 0, 30], &[1; 143], &[0, 150]] {
            send_in_pieces(&mut driver, &packet, pieces, indirect);
            let mut bytes = [0; 100];
            client.read_exact(&mut bytes).unwrap();
            assert!(bytes.iter().copied().eq(0..100), "{pieces:?}");
        }
    }
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0]).is_err());
}

#[test]
fn receive_buffers_may_be_cut_anywhere() {
    let mut driver = Driver::new();
    driver.give_rx(1);
    driver.ready_without_refill();
    let mut client = driver.client(1025);
    std::io::Write::write_all(&mut client, &[9; 300]).unwrap();
    // 20 bytes of header, then the other 24 and 6 of data, then 250 more, then 44 that are not needed.
    let pieces: [Desc; 4] = [
        (FREE, 20, NEXT | WRITE, 1),
        (FREE + 0x1000, 30, NEXT | WRITE, 2),
        (FREE + 0x2000, 250, NEXT | WRITE, 3),
        (FREE + 0x3000, 100, WRITE, 0),
    ];
    let mut host_port = 0;
    for round in 0..2u16 {
        let before = driver.used_idx(RX);
        driver.put_chain(RX, &pieces);
        let begin = Instant::now();
        while driver.used_idx(RX) == before {
            assert!(begin.elapsed() < PATIENCE);
        }
        let mut bytes = vec![0; 20 + 30 + 250 + 100];
        for ((addr, len, ..), at) in pieces.iter().zip([0, 20, 50, 300]) {
            driver.memory.read_slice(&mut bytes[at..at + *len as usize], GuestAddress(*addr)).unwrap();
        }
        let header = Header::parse(bytes[..44].try_into().unwrap());
        if round == 0 {
            assert_eq!((header.op, header.dst_port), (op::REQUEST, 1025));
            host_port = header.src_port;
            let response = Driver::header(op::RESPONSE, 1025, host_port).to_bytes();
            send_in_pieces(&mut driver, &response, &[], false);
        } else {
            assert_eq!((header.op, header.len, header.src_port), (op::RW, 300, host_port));
            assert!(bytes[44..344].iter().all(|byte| *byte == 9));
        }
    }
}

impl Driver {
    fn ready_without_refill(&mut self) {
        self.send(Driver::header(op::REQUEST, 5000, READY_PORT), &[]);
        assert_eq!(self.recv_and_keep(PATIENCE).unwrap().0.op, op::RESPONSE);
    }
}

#[test]
fn a_length_beyond_the_chain_resets_the_connection() {
    for len in [11, 1 << 20, u32::MAX] {
        let mut driver = Driver::booted();
        let (client, socket) = driver.connect(1025, 4096);
        driver.send(Header { len, ..socket.header(op::RW) }, &[1; 10]);
        assert_eq!(driver.expect(op::RST).src_port, socket.host_port);
        assert_eq!(read_all(&client), b"");
        // And without a connection it is any packet.
        driver.send(Header { len, ..Driver::header(op::RW, 9, 9) }, &[1; 10]);
        driver.expect(op::RST);
        assert!(!driver.interrupt.needs_reset());
    }
}

#[test]
fn odd_packets_reset_only_their_connection() {
    let mut driver = Driver::booted();
    let (mut good, mut other) = driver.connect(1025, 4096);
    for operation in [0, op::REQUEST, op::RESPONSE, 8, u16::MAX] {
        let (client, socket) = driver.connect(1025, 4096);
        driver.send(socket.header(operation), &[]);
        assert_eq!(driver.expect(op::RST).src_port, socket.host_port);
        assert_eq!(read_all(&client), b"");
    }
    // No data is data, too; and flags that nobody knows mean nothing.
    driver.send(other.rw(0), &[]);
    driver.send(other.shutdown(!3), &[]);
    driver.send(other.rw(2), b"ok");
    let mut bytes = [0; 2];
    good.read_exact(&mut bytes).unwrap();
    std::io::Write::write_all(&mut good, b"fine").unwrap();
    assert_eq!(other.read(&mut driver, 4), b"fine");
}

#[test]
fn answers_to_a_flood_are_bounded() {
    let mut driver = Driver::new();
    for port in 0..5000 {
        driver.send(Driver::header(op::REQUEST, port, 80), &[]);
    }
    for port in 0..5000 {
        driver.send(Driver::header(op::REQUEST, port, READY_PORT), &[]);
    }
    driver.sync();
    driver.expect_idle();
    driver.fill_rx();
    // The first refusals, and the connections that were granted.
    for count in 0..MAX_REFUSALS + MAX_FROM_GUEST {
        let header = driver.recv().0;
        assert_eq!(header.op, if count < MAX_REFUSALS { op::RST } else { op::RESPONSE });
    }
    driver.expect_silence();
    let _client = driver.client(1025);
    driver.expect(op::REQUEST);
}

/// Runs random chains and indices through both queues.
#[test]
fn random_chains_do_no_harm() {
    let mut random = Random::new();
    let mut driver = Driver::new();
    let mut resets = 0;
    let mut clients = Vec::new();
    let begin = Instant::now();
    let mut round = 0;
    // The device may have had little time meanwhile.
    while round < 12_000 || resets <= 10 && begin.elapsed() < PATIENCE {
        round += 1;
        if driver.interrupt.needs_reset() {
            resets += 1;
            driver.activate();
            clients.clear();
        }
        let ring = random.pick(&[RX, TX, TX]);
        let mut descs = Vec::new();
        for index in 0..1 + random.below(3) as u16 {
            let addr = FREE + random.below(0x1000);
            let kind = random.below(60);
            let addr = if kind == 0 { random.next() } else { addr };
            let len = if kind == 1 { random.next() as u32 } else { 44 + random.below(200) as u32 };
            let mut flags = if (ring == RX) != (kind == 2) { WRITE } else { 0 };
            flags |= random.pick(&[0, 0, NEXT]) | if kind == 3 { random.next() as u16 } else { 0 };
            let next = if kind == 4 { random.next() as u16 } else { index + 1 };
            descs.push((addr, len, flags, next));
        }
        descs.last_mut().unwrap().2 &= !NEXT;
        let mut header = Driver::header(random.below(9) as u16, random.pick(&[5000, 1025]), READY_PORT);
        header.dst_port = random.pick(&[READY_PORT, 1 << 30, (1 << 30) + 1, (1 << 30) + round % 50]);
        header.len = random.pick(&[0, 10, 100, random.0 as u32]);
        header.flags = random.below(4) as u32;
        driver.memory.write_slice(&header.to_bytes(), GuestAddress(descs[0].0 % 0x1000 + FREE)).unwrap();
        driver.put_chain(ring, &descs);
        match random.below(300) {
            0 => driver.put_avail_idx(ring, random.0 as u16),
            1 => driver.put_head(ring, random.0 as u16),
            2..10 if clients.len() < 50 => {
                let mut client = driver.raw_client();
                // A device that has just met nonsense closes it at once.
                let _ = client.write_all(b"CONNECT 1025\n");
                clients.push(client);
            }
            10 => clients.clear(),
            _ => {}
        }
    }
    println!("{resets} resets");
    assert!(resets > 10);
    // Still there, and no busier than it should be.
    clients.clear();
    driver.activate();
    // Clients that were still in the listener's backlog have come and gone by then, and the guest is asked for none of them.
    driver.expect_idle();
    driver.fill_rx();
    driver.ready();
    driver.connect(1025, 4096);
    driver.expect_idle();
}

/// Runs in a process of its own, which may have 64 descriptors.
#[test]
fn running_out_of_descriptors_passes() {
    const CHILD: &str = "VSOCK_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = format!("{}::running_out_of_descriptors_passes", module_path!().split_once("::").unwrap().1);
        let child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    let mut driver = Driver::booted();
    let mut clients = Vec::new();
    while let Ok(client) = std::os::unix::net::UnixStream::connect(&driver.path) {
        clients.push(client);
    }
    assert!(clients.len() > 10);
    // The last ones are turned away; and nothing spins, while a few descriptors are left to see that.
    std::thread::sleep(QUIET);
    clients.truncate(clients.len() / 2);
    driver.expect_idle();
    clients.clear();
    driver.expect_idle();
    driver.connect(1025, 4096);
    driver.expect_idle();
}
