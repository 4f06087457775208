//! The block device against good drivers and bad ones.

use std::fs::File;
use std::os::unix::fs::FileExt;

use virtio_bindings::virtio_blk as blk;
use vm_memory::{Bytes, GuestAddress};

use super::persist::{RANGE_SECTORS_MAX, RANGES_MAX};
use super::tests_driver::{DATA, Driver, HEADER, NEXT, NO_STATUS, STATUS, WRITE, config};
use super::{Blk, BlkError};
use crate::devices::VirtioDevice;

const OK: u8 = blk::VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = blk::VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = blk::VIRTIO_BLK_S_UNSUPP as u8;
const IN: u32 = blk::VIRTIO_BLK_T_IN;
const OUT: u32 = blk::VIRTIO_BLK_T_OUT;
const DISCARD: u32 = blk::VIRTIO_BLK_T_DISCARD;
const WRITE_ZEROES: u32 = blk::VIRTIO_BLK_T_WRITE_ZEROES;
/// Sectors of the test's disk.
const SECTORS: u64 = 64;

fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512) as u8 + 1).collect();
    file.write_all_at(&content, 0).unwrap();
    file
}

fn driver(file: &File) -> Driver {
    Driver::new(config(file, false), 0)
}

fn sector(file: &File, sector: u64) -> Vec<u8> {
    let mut data = vec![0; 512];
    file.read_exact_at(&mut data, sector * 512).unwrap();
    data
}

#[test]
fn sectors_are_read_and_written() {
    let file = disk();
    let mut driver = driver(&file);
    assert_eq!(driver.request(IN, 5, 1024), (OK, 1025));
    assert_eq!(driver.get(1024), [vec![6; 512], vec![7; 512]].concat());
    driver.put(&[0x5a; 1024]);
    assert_eq!(driver.request(OUT, 62, 1024), (OK, 1));
    assert_eq!(
        (sector(&file, 61), sector(&file, 62), sector(&file, 63)),
        (vec![62; 512], vec![0x5a; 512], vec![0x5a; 512])
    );
    assert_eq!(driver.request(blk::VIRTIO_BLK_T_FLUSH, 0, 0), (OK, 1));
    assert_eq!(driver.request(blk::VIRTIO_BLK_T_GET_ID, 0, 20), (OK, 21));
    assert_eq!(driver.get(20), *b"7:0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(driver.interrupt.irq().read().unwrap() > 0);
}

#[test]
fn it_does_not_matter_how_a_request_is_cut() {
    let file = disk();
    let mut driver = driver(&file);
    driver.header(OUT, 3);
    driver.put(&[0x77; 512]);
    let rest = HEADER + 0x100;
    driver.memory.write_slice(&[0x78; 500], GuestAddress(rest)).unwrap();
    driver.memory.write_slice(&[0x77; 12], GuestAddress(HEADER + 16)).unwrap();
    let chain = [
        (HEADER, 7, NEXT, 1),
        (HEADER + 7, 21, NEXT, 2),
        (rest, 500, NEXT, 3),
        (DATA, 512, NEXT, 4),
        (STATUS, 1, WRITE, 0),
    ];
    assert_eq!(driver.send(&chain), Some(1));
    assert_eq!(driver.status(), OK);
    assert_eq!(sector(&file, 3), [vec![0x77; 12], vec![0x78; 500]].concat());
    assert_eq!(sector(&file, 4), [0x77; 512]);
    driver.header(IN, 0);
    // The last of the bytes that the device writes is the status, wherever it is.
    let chain = [(HEADER, 16, NEXT, 1), (DATA, 100, NEXT | WRITE, 2), (DATA + 100, 413, WRITE, 0)];
    assert_eq!(driver.send(&chain), Some(513));
    assert_eq!(driver.get(513), [vec![1; 512], vec![OK]].concat());
}

#[test]
fn what_is_not_there_is_not_touched() {
    let file = disk();
    let mut driver = driver(&file);
    for (at, data) in [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511), (0, 513)]
    {
        for kind in [IN, OUT] {
            assert_eq!(driver.request(kind, at, data), (IOERR, 1), "{kind} {at} {data}");
        }
    }
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512);
    // Nothing at all can be had from everywhere on the disk.
    assert_eq!(driver.request(IN, SECTORS, 0), (OK, 1));
    file.set_len(512).unwrap();
    assert_eq!(driver.request(IN, 0, 1024), (IOERR, 1), "the host has cut the file");
    assert_eq!(driver.request(IN, 0, 512), (OK, 513));
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let file = disk();
    let mut driver = Driver::new(config(&file, true), 0);
    let offered = driver.blk.features();
    assert_ne!(offered & 1 << blk::VIRTIO_BLK_F_RO, 0);
    assert_eq!(offered & (1 << blk::VIRTIO_BLK_F_DISCARD | 1 << blk::VIRTIO_BLK_F_WRITE_ZEROES), 0);
    driver.put(&[0x5a; 512]);
    assert_eq!(driver.request(OUT, 0, 512), (IOERR, 1));
    driver.memory.write_obj([0u32, 0, 1, 0], GuestAddress(DATA)).unwrap();
    assert_eq!(driver.request(DISCARD, 0, 16), (UNSUPP, 1));
    assert_eq!(driver.request(WRITE_ZEROES, 0, 16), (UNSUPP, 1));
    assert_eq!(driver.request(blk::VIRTIO_BLK_T_FLUSH, 0, 0), (OK, 1));
    assert_eq!(driver.request(IN, 0, 512), (OK, 513));
    assert_eq!(driver.get(512), [1; 512]);
}

#[test]
fn ranges_become_zeroes() {
    let file = disk();
    let mut driver = driver(&file);
    let ranges = |driver: &Driver, ranges: &[(u64, u32, u32)]| {
        for (index, (sector, sectors, flags)) in ranges.iter().enumerate() {
            let range = [*sector as u32, (sector >> 32) as u32, *sectors, *flags];
            driver.memory.write_obj(range, GuestAddress(DATA + 16 * index as u64)).unwrap();
        }
        16 * ranges.len() as u32
    };
    // tmpfs can punch holes, and not zero otherwise: either answer is right there.
    let length = ranges(&driver, &[(1, 2, 0), (8, 1, 0), (9, 0, 0)]);
    let (status, _) = driver.request(WRITE_ZEROES, 0, length);
    assert!([OK, UNSUPP].contains(&status));
    let expected = if status == OK { 0 } else { 2 };
    assert_eq!((sector(&file, 0)[0], sector(&file, 1)[0], sector(&file, 3)[0]), (1, expected, 4));
    let length = ranges(&driver, &[(10, 2, 1)]);
    assert_eq!(driver.request(WRITE_ZEROES, 0, length), (OK, 1));
    let length = ranges(&driver, &[(20, 1, 0), (30, 2, 0)]);
    assert_eq!(driver.request(DISCARD, 0, length), (OK, 1));
    for (at, cleared) in
        [(9, false), (10, true), (11, true), (12, false), (20, true), (21, false), (30, true), (31, true)]
    {
        assert_eq!(sector(&file, at) == [0; 512], cleared, "{at}");
    }
    for (kind, wrong, status) in [
        (DISCARD, (0, 1, 1), UNSUPP), // a discard does nothing but unmap
        (WRITE_ZEROES, (0, 1, 2), UNSUPP),
        (DISCARD, (SECTORS, 1, 0), IOERR),
        (DISCARD, (u64::MAX, 1, 0), IOERR),
        (WRITE_ZEROES, (0, RANGE_SECTORS_MAX + 1, 0), IOERR),
        (WRITE_ZEROES, (0, u32::MAX, 1), IOERR),
    ] {
        let length = ranges(&driver, &[(40, 1, 0), wrong]);
        assert_eq!(driver.request(kind, 0, length), (status, 1), "{kind} {wrong:?}");
        assert_eq!(sector(&file, 40), [41; 512], "all are checked first");
    }
    let length = ranges(&driver, &vec![(40, 1, 0); RANGES_MAX + 1]);
    assert_eq!(driver.request(DISCARD, 0, length), (IOERR, 1));
    assert_eq!(driver.request(DISCARD, 0, 15), (IOERR, 1));
    assert_eq!(file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn unknown_requests_are_not_supported() {
    let file = disk();
    let mut driver = driver(&file);
    for kind in [2, 3, 5, 14, 24, u32::MAX] {
        assert_eq!(driver.request(kind, 0, 512), (UNSUPP, 1), "{kind}");
    }
}

#[test]
fn chains_that_are_no_requests_harm_nobody() {
    let file = disk();
    let mut driver = driver(&file);
    driver.header(IN, 0);
    let end = 64 << 20;
    let header = (HEADER, 16, NEXT, 1);
    let none: [&[(u64, u32, u16, u16)]; 9] = [
        &[(HEADER, 16, 0, 0)],                                                  // no status
        &[header, (STATUS, 0, WRITE, 0)],                                       // an empty one
        &[header, (DATA, 512, NEXT | WRITE, 2), (STATUS, 1, 0, 0)],             // one that cannot be written
        &[(STATUS, 1, NEXT | WRITE, 1), (HEADER, 16, 0, 0)],                    // in the wrong order
        &[header, (end, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],          // beyond memory
        &[header, (end - 8, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)],      // across its end
        &[header, (u64::MAX - 8, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)], // overflows
        &[(HEADER, 16, NEXT, 0)],                                               // endless
        &[header, (STATUS, 1, NEXT | WRITE, 700)],                              // goes on where there is nothing
    ];
    for chain in none {
        assert_eq!(driver.send(chain), Some(0), "{chain:?}");
        assert_eq!(driver.status(), NO_STATUS, "{chain:?}");
    }
    // A status can be given to these.
    let huge = (DATA, 32 << 20, NEXT | WRITE, 2);
    let some: [&[(u64, u32, u16, u16)]; 3] = [
        &[(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)],
        &[(STATUS, 1, WRITE, 0)],
        &[header, huge, (DATA, 32 << 20, NEXT | WRITE, 3), (DATA, 512, NEXT | WRITE, 4), (STATUS, 1, WRITE, 0)],
    ];
    for chain in some {
        assert_eq!((driver.send(chain), driver.status()), (Some(1), IOERR), "{chain:?}");
    }
    assert_eq!(driver.request(IN, 0, 512), (OK, 513), "the device is alive");
}

#[test]
fn a_ring_that_is_none_stops_the_device_until_it_is_reset() {
    let file = disk();
    let mut driver = driver(&file);
    driver.set_avail_index(1000);
    driver.kick.write(1).unwrap();
    driver.wait(|driver| driver.interrupt.needs_reset());
    driver.blk.reset();
    driver.interrupt.clear();
    driver.activate();
    assert_eq!(driver.request(IN, 1, 512), (OK, 513));
}

#[test]
fn after_a_reset_the_queue_is_left_alone() {
    let file = disk();
    let mut driver = driver(&file);
    driver.blk.reset();
    driver.blk.reset();
    driver.set_avail_index(1);
    driver.kick.write(1).unwrap();
    assert!(driver.kick.read().unwrap() >= 1, "nobody else reads it");
    // A driver that knows no flush is answered too.
    let mut simple = Driver::new(config(&file, false), 1 << blk::VIRTIO_BLK_F_FLUSH);
    simple.put(&[9; 512]);
    assert_eq!(simple.request(OUT, 0, 512), (OK, 1));
    assert_eq!(sector(&file, 0), [9; 512]);
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let file = disk();
    file.set_len(SECTORS * 512 + 5000).unwrap();
    let blk =
        Blk::new(super::BlkConfig { block_size: 4096, ..config(&file, false) }, std::sync::Arc::new(|_| ())).unwrap();
    let field = |offset, len: usize| {
        let mut data = [0; 8];
        blk.read_config(offset, &mut data[..len]);
        u64::from_le_bytes(data)
    };
    assert_eq!(field(0, 8), SECTORS + 8, "whole blocks");
    assert_eq!((field(8, 4), field(12, 4), field(20, 4)), (0, 254, 4096));
    assert_eq!((field(36, 4), field(40, 4), field(44, 4)), (1 << 17, 16, 8));
    assert_eq!((field(48, 4), field(52, 4), field(56, 1)), (1 << 17, 16, 1));
    assert_eq!(field(1 << 40, 8), 0);
    assert_eq!(blk.device_type(), 2);
}

#[test]
fn odd_block_sizes_are_refused() {
    for size in [0, 1, 256, 513, 8192, u32::MAX] {
        let config = super::BlkConfig { block_size: size, ..config(&disk(), false) };
        let error = Blk::new(config, std::sync::Arc::new(|_| ())).err();
        assert!(matches!(error, Some(BlkError::BlockSize { size: given, .. }) if given == size));
    }
}
