//! What a well-behaved guest and its clients see.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::VsockState;
use super::muxer::WINDOW;
use super::packet::{HOST_CID, Header, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, op};
use super::tests_driver::*;
use crate::devices::{F_EVENT_IDX, F_VERSION_1, VirtioDevice};

#[test]
fn it_looks_like_a_vsock_device() {
    let driver = Driver::new();
    assert_eq!(driver.device.device_type(), 19);
    assert_eq!(driver.device.queue_sizes(), [256, 256, 256]);
    let mut config = [0; 12];
    driver.device.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    driver.device.read_config(u64::MAX, &mut config);
    let state = VsockState::from(&driver.device);
    assert!(state.active && !state.listening && state.features & F_VERSION_1 != 0 && state.guest_cid == CID);
}

#[test]
fn data_goes_both_ways() {
    for features in [F_VERSION_1, F_VERSION_1 | F_EVENT_IDX] {
        let mut driver = Driver::with_features(features);
        driver.fill_rx();
        driver.ready();
        let (mut client, mut socket) = driver.connect(1025, 64 << 10);
        client.write_all(b"to the guest").unwrap();
        assert_eq!(socket.read(&mut driver, 12), b"to the guest");
        driver.send(socket.rw(11), b"to the host");
        let mut bytes = [0; 11];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"to the host");
        driver.expect_idle();
    }
}

#[test]
fn many_connections_keep_their_bytes_apart() {
    let mut driver = Driver::booted();
    let mut open: Vec<_> = (0..200).map(|_| driver.connect(1025, 4096)).collect();
    let mut ports: Vec<u32> = open.iter().map(|(_, socket)| socket.host_port).collect();
    ports.dedup();
    assert_eq!(ports.len(), 200);
    for (client, socket) in &mut open {
        client.write_all(&socket.host_port.to_le_bytes()).unwrap();
        assert_eq!(socket.read(&mut driver, 4), socket.host_port.to_le_bytes());
        driver.send(socket.rw(4), &socket.host_port.to_be_bytes());
    }
    for (client, socket) in &mut open {
        let mut bytes = [0; 4];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, socket.host_port.to_be_bytes());
    }
}

#[test]
fn clients_are_held_back_until_the_guest_is_ready() {
    let mut driver = Driver::new();
    driver.fill_rx();
    let first = driver.client(1024);
    let second = driver.client(1025);
    let gone = driver.client(1026);
    driver.expect_silence();
    drop(gone);
    driver.expect_idle();
    assert_eq!(driver.ready_calls.load(Ordering::SeqCst), 0);
    driver.ready();
    assert_eq!(driver.ready_calls.load(Ordering::SeqCst), 1);
    assert!(VsockState::from(&driver.device).listening);
    let sockets = [driver.accept(1024, 4096), driver.accept(1025, 4096)];
    for (client, socket) in [first, second].into_iter().zip(sockets) {
        assert_eq!(read_line(&client), format!("OK {}\n", socket.host_port));
        drop(client);
        let header = driver.expect(op::SHUTDOWN);
        assert_eq!((header.src_port, header.flags), (socket.host_port, SHUTDOWN_BOTH));
        driver.send(socket.header(op::RST), &[]);
    }
    driver.expect_silence();
}

#[test]
fn bytes_behind_the_connect_line_are_not_lost() {
    let mut driver = Driver::booted();
    let mut client = driver.raw_client();
    client.write_all(b"CONNECT 1025\n12345678 and more\n").unwrap();
    let mut socket = driver.accept(1025, 4096);
    assert_eq!(socket.read(&mut driver, 18), b"12345678 and more\n");
    // A line that comes in pieces.
    let mut client = driver.raw_client();
    for piece in ["CONN", "ECT 10", "25", "\nab"] {
        client.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut socket = driver.accept(1025, 4096);
    assert_eq!(socket.read(&mut driver, 2), b"ab");
}

#[test]
fn malformed_lines_are_answered_and_closed() {
    let mut driver = Driver::booted();
    let lines: [&[u8]; 10] = [
        b"\n",
        b"CONNECT\n",
        b"CONNECT \n1",
        b"CONNECT +1\n",
        b"CONNECT 4294967296\n",
        b"CONNECT 10 \n",
        b"connect 10\n",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT 00000000000000000000000000001\n",
        &[0xff; 100],
    ];
    for line in lines {
        let mut client = driver.raw_client();
        client.write_all(line).unwrap();
        if line.len() < 10 {
            // Too short to be judged before the client says that there is no more, unless it ends it.
            let _ = client.write_all(b"          ");
        }
        assert_eq!(read_all(&client), b"ERR malformed request\n", "{line:?}");
    }
    driver.expect_silence();
    driver.expect_idle();
}

#[test]
fn the_guest_can_refuse() {
    let mut driver = Driver::booted();
    let mut client = driver.raw_client();
    client.write_all(b"CONNECT 77\nnever read").unwrap();
    let request = driver.expect(op::REQUEST);
    driver.send(Driver::header(op::RST, 77, request.src_port), &[]);
    assert_eq!(read_all(&client), b"ERR connection refused\n");
    // Data before the answer breaks the rules.
    let client = driver.client(78);
    let request = driver.expect(op::REQUEST);
    driver.send(Header { len: 1, ..Driver::header(op::RW, 78, request.src_port) }, b"x");
    assert_eq!(read_all(&client), b"ERR connection refused\n");
    driver.expect(op::RST);
    driver.expect_silence();
}

#[test]
fn a_client_that_leaves_early_is_dropped() {
    let mut driver = Driver::booted();
    let client = driver.client(1025);
    let request = driver.expect(op::REQUEST);
    drop(client);
    let reset = driver.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, 1025));
    // Too late.
    driver.send(Driver::header(op::RESPONSE, 1025, request.src_port), &[]);
    driver.expect(op::RST);
    driver.expect_silence();
}

#[test]
fn the_guests_credit_is_kept_to() {
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 100);
    let bytes: Vec<u8> = (0..250).collect();
    client.write_all(&bytes).unwrap();
    let (header, first) = driver.recv();
    assert_eq!((header.op, header.len), (op::RW, 100));
    driver.expect(op::CREDIT_REQUEST);
    driver.expect_silence();
    driver.expect_idle();
    // No credit in it: it must not be asked again, and again.
    driver.send(socket.header(op::CREDIT_UPDATE), &[]);
    driver.expect_silence();
    socket.forwarded = 30;
    driver.send(socket.header(op::CREDIT_UPDATE), &[]);
    let (header, second) = driver.recv();
    assert_eq!((header.op, header.len), (op::RW, 30));
    driver.expect(op::CREDIT_REQUEST);
    // A larger window is credit, too.
    socket.window = 300;
    driver.send(socket.header(op::CREDIT_UPDATE), &[]);
    let (header, third) = driver.recv();
    assert_eq!((header.op, header.len), (op::RW, 120));
    assert_eq!([first, second, third].concat(), bytes);
    driver.expect_silence();
    // A smaller one than what is on its way, and a count of bytes never sent: no credit, no accident.
    socket.window = 10;
    socket.forwarded = u32::MAX;
    driver.send(socket.header(op::CREDIT_UPDATE), &[]);
    client.write_all(b"x").unwrap();
    driver.expect(op::CREDIT_REQUEST);
    driver.expect_silence();
}

#[test]
fn a_client_that_does_not_read_costs_a_window_and_no_more() {
    let mut driver = Driver::booted();
    let (mut client, socket) = driver.connect(1025, 4096);
    let mut sent = 0u32;
    let mut credit = Header { buf_alloc: WINDOW, ..Header::default() };
    let chunk: Vec<u8> = (0..4096u32).map(|i| i as u8).collect();
    // As much as the device allows: what the socket takes, then the window.
    let mut free = WINDOW;
    loop {
        // Patient only when there is nothing else to do.
        let patience = if free <= 4096 { QUIET } else { Duration::ZERO };
        while let Some((header, _)) = driver.recv_within(patience) {
            credit = header;
        }
        free = credit.buf_alloc - sent.wrapping_sub(credit.fwd_cnt);
        if free == 0 {
            break;
        }
        let len = free.min(4096) as usize;
        driver.send(socket.rw(len), &chunk[..len]);
        sent += len as u32;
    }
    assert!(sent > WINDOW && credit.fwd_cnt == sent - WINDOW);
    driver.expect_idle();
    // CREDIT_REQUEST is answered, with the truth.
    driver.send(socket.header(op::CREDIT_REQUEST), &[]);
    assert_eq!(driver.expect(op::CREDIT_UPDATE).fwd_cnt, sent - WINDOW);
    // The client reads: it gets all, and the guest its credit.
    let mut bytes = vec![0; sent as usize];
    client.read_exact(&mut bytes).unwrap();
    assert!(bytes.chunks(4096).all(|got| got == &chunk[..got.len()]));
    while credit.fwd_cnt < sent - WINDOW / 2 {
        credit = driver.expect(op::CREDIT_UPDATE);
    }
    // One byte too many is the end.
    driver.sync();
    driver.send(socket.header(op::CREDIT_REQUEST), &[]);
    let mut fwd = driver.expect(op::CREDIT_UPDATE).fwd_cnt;
    assert_eq!(fwd, sent);
    loop {
        driver.send(socket.rw(4096), &chunk);
        sent += 4096;
        while let Some((header, _)) = driver.recv_within(Duration::from_millis(1)) {
            if header.op == op::RST {
                assert!(sent - fwd > WINDOW);
                return;
            }
            fwd = header.fwd_cnt;
        }
        assert!(sent < 16 * WINDOW);
    }
}

#[test]
fn the_client_can_close_its_sending_side() {
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 4096);
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(socket.read(&mut driver, 10), b"last words");
    let header = driver.expect(op::SHUTDOWN);
    assert_eq!(header.flags, SHUTDOWN_SEND);
    driver.expect_idle();
    // The other direction lives on.
    driver.send(socket.rw(5), b"reply");
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"reply");
    // The guest closes: RST is the answer, and the client's end of the stream.
    driver.send(socket.rw(3), b"bye");
    driver.send(socket.shutdown(SHUTDOWN_BOTH), &[]);
    driver.expect(op::RST);
    assert_eq!(read_all(&client), b"bye");
    driver.send(socket.rw(1), b"x");
    driver.expect(op::RST);
}

#[test]
fn the_guest_can_close_its_sending_side() {
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 4096);
    driver.send(socket.rw(3), b"end");
    driver.send(socket.shutdown(SHUTDOWN_SEND), &[]);
    assert_eq!(read_all(&client), b"end");
    client.write_all(b"still here").unwrap();
    assert_eq!(socket.read(&mut driver, 10), b"still here");
    driver.expect_idle();
    // The client closes, too: the guest is told that all is over.
    drop(client);
    assert_eq!(driver.expect(op::SHUTDOWN).flags, SHUTDOWN_BOTH);
    driver.send(socket.header(op::RST), &[]);
    driver.expect_silence();
    // Sending after that is against the rules.
    let (client, socket) = driver.connect(1025, 4096);
    driver.send(socket.shutdown(SHUTDOWN_SEND), &[]);
    driver.send(socket.rw(3), b"end");
    driver.expect(op::RST);
    assert_eq!(read_all(&client), b"");
}

#[test]
fn the_guest_can_close_its_receiving_side() {
    let mut driver = Driver::booted();
    let (mut client, socket) = driver.connect(1025, 4096);
    driver.send(socket.shutdown(SHUTDOWN_RCV), &[]);
    driver.sync();
    assert_eq!(client.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    driver.send(socket.rw(5), b"reply");
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    driver.expect_idle();
    driver.send(socket.shutdown(SHUTDOWN_SEND), &[]);
    driver.expect(op::RST);
    assert_eq!(read_all(&client), b"");
}

#[test]
fn a_client_that_takes_no_more_is_told_to_the_guest() {
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 4096);
    client.shutdown(Shutdown::Read).unwrap();
    driver.send(socket.rw(5), b"hello");
    let header = driver.expect(op::SHUTDOWN);
    assert_eq!((header.flags, header.fwd_cnt), (SHUTDOWN_RCV, 5));
    // What was on its way is thrown away; the other direction lives on.
    driver.send(socket.rw(5), b"hello");
    client.write_all(b"stdin").unwrap();
    assert_eq!(socket.read(&mut driver, 5), b"stdin");
    drop(client);
    assert_eq!(driver.expect(op::SHUTDOWN).flags, SHUTDOWN_BOTH);
}

#[test]
fn what_a_client_wrote_before_it_left_arrives() {
    let mut driver = Driver::booted();
    let (mut client, mut socket) = driver.connect(1025, 1000);
    let bytes: Vec<u8> = (0..50_000u32).map(|i| (i * 7) as u8).collect();
    client.write_all(&bytes).unwrap();
    drop(client);
    // No credit for most of it yet, and a hang-up that epoll would report for ever.
    let (header, mut got) = driver.recv();
    assert_eq!((header.op, header.len), (op::RW, 1000));
    driver.expect(op::CREDIT_REQUEST);
    // It takes no more, which the guest can know at once.
    assert_eq!(driver.expect(op::SHUTDOWN).flags, SHUTDOWN_RCV);
    driver.expect_idle();
    socket.forwarded = 1000;
    driver.send(socket.header(op::CREDIT_UPDATE), &[]);
    got.extend(socket.read(&mut driver, 49_000));
    assert!(got == bytes);
    let mut header = driver.recv().0;
    while matches!(header.op, op::CREDIT_REQUEST | op::CREDIT_UPDATE) {
        header = driver.recv().0;
    }
    assert_eq!((header.op, header.flags), (op::SHUTDOWN, SHUTDOWN_BOTH));
    driver.send(socket.shutdown(SHUTDOWN_BOTH), &[]);
    driver.expect(op::RST);
}

#[test]
fn what_the_guest_sent_before_it_left_arrives() {
    for last in [op::SHUTDOWN, op::RST] {
        let mut driver = Driver::booted();
        let (client, socket) = driver.connect(1025, 4096);
        // More than the socket takes, within the window.
        let chunk = [7; 4096];
        for _ in 0..WINDOW / 4096 {
            driver.send(socket.rw(4096), &chunk);
        }
        driver.sync();
        let mut fwd = 0;
        while let Some((header, _)) = driver.recv_within(QUIET) {
            fwd = header.fwd_cnt;
        }
        for _ in 0..fwd / 4096 {
            driver.send(socket.rw(4096), &chunk);
        }
        driver.send(Header { flags: SHUTDOWN_BOTH, ..socket.header(last) }, &[]);
        driver.sync();
        driver.expect_idle();
        assert_eq!(read_all(&client).len() as u32, WINDOW / 4096 * 4096 + fwd / 4096 * 4096);
        // Credit may have been told while it still mattered; then a RST for a SHUTDOWN, and nothing for a RST.
        let mut answers = Vec::new();
        while let Some((header, _)) = driver.recv_within(QUIET) {
            answers.push(header.op);
        }
        answers.retain(|answer| *answer != op::CREDIT_UPDATE);
        assert_eq!(answers, if last == op::SHUTDOWN { vec![op::RST] } else { vec![] });
    }
}

#[test]
fn nothing_but_the_ready_port_can_be_reached_from_the_guest() {
    let mut driver = Driver::booted();
    let request = Driver::header(op::REQUEST, 6000, 2000);
    driver.send(request, &[]);
    let reset = driver.expect(op::RST);
    assert_eq!((reset.src_cid, reset.dst_cid, reset.src_port, reset.dst_port), (HOST_CID, CID, 2000, 6000));
    driver.send(Header { type_: 2, dst_port: READY_PORT, ..request }, &[]);
    assert_eq!(driver.expect(op::RST).type_, 2);
    driver.send(Header { dst_cid: 7, dst_port: READY_PORT, ..request }, &[]);
    assert_eq!(driver.expect(op::RST).src_cid, 7);
    // RST is never answered, nor is who says to be someone else.
    driver.send(Header { op: op::RST, ..request }, &[]);
    driver.send(Header { src_cid: 99, dst_port: READY_PORT, ..request }, &[]);
    driver.expect_silence();
    assert_eq!(driver.ready_calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_to_the_bell_is_a_message() {
    let mut driver = Driver::booted();
    for rung in 1..=3 {
        driver.send(Driver::header(op::REQUEST, 6000, BELL_PORT), &[]);
        assert_eq!(driver.expect(op::RST).dst_port, 6000);
        assert_eq!(driver.bell_calls.load(Ordering::SeqCst), rung);
    }
    driver.send(Driver::header(op::RW, 6000, BELL_PORT), &[]);
    driver.expect(op::RST);
    driver.send(Driver::header(op::RST, 6000, BELL_PORT), &[]);
    driver.send(Header { src_cid: 99, ..Driver::header(op::REQUEST, 6000, BELL_PORT) }, &[]);
    driver.expect_silence();
    assert_eq!(driver.bell_calls.load(Ordering::SeqCst), 3);
}

#[test]
fn data_for_the_ready_port_is_thrown_away() {
    let mut driver = Driver::booted();
    let mut sent = 0;
    let mut fwd = 0;
    while sent < 4 * WINDOW {
        driver.send(Header { len: 4096, ..Driver::header(op::RW, 5000, READY_PORT) }, &[1; 4096]);
        sent += 4096;
        while sent - fwd > WINDOW - 4096 {
            fwd = driver.expect(op::CREDIT_UPDATE).fwd_cnt;
        }
    }
    // A second one, and one with the port of the first.
    driver.send(Driver::header(op::REQUEST, 5001, READY_PORT), &[]);
    let mut header = driver.recv().0;
    while header.op == op::CREDIT_UPDATE {
        header = driver.recv().0;
    }
    assert_eq!((header.op, header.dst_port), (op::RESPONSE, 5001));
    driver.send(Driver::header(op::REQUEST, 5000, READY_PORT), &[]);
    assert_eq!(driver.expect(op::RST).dst_port, 5000);
    driver.send(Header { flags: SHUTDOWN_BOTH, ..Driver::header(op::SHUTDOWN, 5001, READY_PORT) }, &[]);
    assert_eq!(driver.expect(op::RST).dst_port, 5001);
    assert_eq!(driver.ready_calls.load(Ordering::SeqCst), 1);
}

#[test]
fn data_waits_for_receive_buffers() {
    let mut driver = Driver::new();
    driver.give_rx(1);
    driver.send(Driver::header(op::REQUEST, 5000, READY_PORT), &[]);
    assert_eq!(driver.recv_and_keep(PATIENCE).unwrap().0.op, op::RESPONSE);
    let mut client = driver.client(1025);
    client.write_all(&[5; 10_000]).unwrap();
    assert!(driver.recv_and_keep(QUIET).is_none());
    driver.expect_idle();
    driver.give_rx(1);
    let request = driver.recv_and_keep(PATIENCE).unwrap().0;
    assert_eq!(request.op, op::REQUEST);
    driver.send(Driver::header(op::RESPONSE, 1025, request.src_port), &[]);
    driver.sync();
    driver.expect_idle();
    for wanted in [4052, 4052, 10_000 - 2 * 4052] {
        driver.give_rx(1);
        let (header, data) = driver.recv_and_keep(PATIENCE).unwrap();
        assert_eq!((header.op, header.len), (op::RW, wanted));
        assert!(data.iter().all(|byte| *byte == 5));
        assert!(driver.recv_and_keep(QUIET).is_none());
    }
}

#[test]
fn after_a_reset_all_begins_anew() {
    let mut driver = Driver::booted();
    let (client, _) = driver.connect(1025, 4096);
    driver.device.reset();
    assert_eq!(read_all(&client), b"");
    let state = VsockState::from(&driver.device);
    assert!(!state.active && !state.listening && state.features == 0);
    // Clients wait in the backlog meanwhile.
    let client = driver.client(1026);
    driver.activate();
    driver.fill_rx();
    driver.expect_silence();
    driver.ready();
    let socket = driver.accept(1026, 4096);
    assert_eq!(read_line(&client), format!("OK {}\n", socket.host_port));
    assert_eq!(driver.ready_calls.load(Ordering::SeqCst), 1);
}
