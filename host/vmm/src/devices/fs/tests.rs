//! The file system device against a driver's requests, good and bad, on mock guest memory and a real directory.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use virtiofsd::fuse::{InHeader, Opcode};
use vm_memory::{Bytes, GuestAddress};

use super::tests_driver::{ANSWER, ANSWER_LEN, Driver, NEXT, REQUEST, WRITE, device, shared_directory};
use super::*;
use crate::ThreadStart;
use crate::devices::VirtioDevice;

#[test]
fn answers_requests_of_both_queues() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    driver.assert_alive(dir.path());
    assert_eq!(driver.lookup("missing"), Err(-libc::ENOENT));
    let forget = InHeader { len: 48, opcode: Opcode::Forget as u32, nodeid: 2, ..Default::default() };
    driver.memory.write_obj(forget, GuestAddress(REQUEST)).unwrap();
    driver.memory.write_obj(1u64, GuestAddress(REQUEST + 40)).unwrap();
    assert_eq!(driver.send(0, &[(REQUEST, 48, 0, 0)]), Some((0, 0)));
}

#[test]
fn names_cannot_leave_the_shared_directory() {
    let dir = shared_directory();
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    let mut driver = Driver::new(dir.path());
    driver.init();
    for name in ["..", "../..", "/etc/passwd", "link/passwd"] {
        let result = driver.lookup(name);
        let root = std::fs::metadata(dir.path()).unwrap().ino();
        assert!(result.is_err() || result == Ok(root), "{name}: {result:?}");
    }
}

#[test]
fn serves_again_after_a_reset() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    for _ in 0..3 {
        driver.init();
        driver.assert_alive(dir.path());
        driver.fs.reset();
        driver.interrupt.clear();
        driver.activate();
    }
}

#[test]
fn malformed_chains_are_given_back_and_the_device_goes_on() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    let chains: [&[(u64, u32, u16, u16)]; 10] = [
        &[(REQUEST, 0, 0, 0)],                                        // empty
        &[(REQUEST, 39, NEXT, 1), (ANSWER, ANSWER_LEN, WRITE, 0)],    // header cut short
        &[(ANSWER, ANSWER_LEN, WRITE, 0)],                            // nothing to read
        &[(REQUEST, 4096, 0, 0)],                                     // no room for an answer
        &[(REQUEST, 4096, NEXT, 1), (ANSWER, 15, WRITE, 0)],          // too little room
        &[(64 << 20, 64, NEXT, 1), (ANSWER, ANSWER_LEN, WRITE, 0)],   // outside memory
        &[(u64::MAX - 3, u32::MAX, NEXT, 1), (ANSWER, 64, WRITE, 0)], // overflows
        &[(REQUEST, 64, NEXT, 0)],                                    // points to itself
        &[(REQUEST, 64, NEXT, 9999)],                                 // points out of the table
        &[(REQUEST, u32::MAX, 0x4, 0)],                               // indirect table of odd size
    ];
    for opcode in [Opcode::Read as u32, Opcode::Readdir as u32, Opcode::Lookup as u32, 0, u32::MAX] {
        for chain in chains {
            let header = InHeader { len: 4096, opcode, nodeid: 1, ..Default::default() };
            driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
            assert!(driver.send(1, chain).is_some(), "opcode {opcode}, chain {chain:x?}");
        }
    }
    driver.assert_alive(dir.path());
}

#[test]
fn a_broken_ring_stops_the_queue_until_reset() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    driver.memory.store(driver.sent[1] + 1000, driver.avail_index(1), Ordering::Release).unwrap();
    driver.kicks[1].write(1).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !driver.interrupt.needs_reset() {
        assert!(Instant::now() < deadline, "DEVICE_NEEDS_RESET");
        std::thread::yield_now();
    }
    driver.fs.reset();
    driver.interrupt.clear();
    driver.activate();
    driver.init();
    driver.assert_alive(dir.path());
}

#[test]
fn random_requests_are_survived() {
    let dir = shared_directory();
    let mut driver = Driver::new(dir.path());
    driver.init();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..3000 {
        let mut body = vec![0; random() as usize % 256];
        body.iter_mut().for_each(|byte| *byte = if random() % 3 == 0 { random() as u8 } else { 0 });
        let opcode = random() as u32 % 54;
        let node = random() % 4;
        let claimed = if random() % 4 == 0 { random() as u32 } else { (40 + body.len()) as u32 };
        let header = InHeader { len: claimed, opcode, unique: 1, nodeid: node, ..Default::default() };
        driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
        driver.memory.write_slice(&body, GuestAddress(REQUEST + 40)).unwrap();
        let answer = random() as u32 % 4096;
        let chain = [(REQUEST, 40 + body.len() as u32, NEXT, 1), (ANSWER, answer, WRITE, 0)];
        assert!(driver.send(1, &chain).is_some(), "opcode {opcode} node {node} length {claimed} body {body:?}");
    }
    driver.init();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    driver.assert_alive(dir.path());
}

#[test]
fn tags_that_do_not_fit_are_refused() {
    let dir = shared_directory();
    for tag in [String::new(), "x".repeat(37)] {
        let config = FsConfig {
            tag,
            root: dir.path().to_owned(),
            proc_self_fd: File::open("/proc/self/fd").unwrap(),
            workers: 1,
            open_files_max: 10,
            cache: CachePolicy::Always,
            replay: ReplayUids { touch: 90, make: 91, drop: 92, file: 93, directory: 94 },
        };
        let on_start: ThreadStart = Arc::new(|_| ());
        assert!(matches!(Fs::new(config, on_start), Err(FsError::Tag(_))));
    }
}

#[test]
fn configuration_space_holds_tag_and_queue_count() {
    let dir = shared_directory();
    let fs = device(dir.path());
    let mut tag = [0xff; 36];
    fs.read_config(0, &mut tag);
    assert_eq!(&tag[..5], b"test\0");
    let mut queues = [0; 4];
    fs.read_config(36, &mut queues);
    assert_eq!(u32::from_le_bytes(queues), 1);
}
