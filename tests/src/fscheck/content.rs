//! The content of files, and where it has holes.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Tell, create};
use crate::sys::Map;

pub(super) fn sparse(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), b"")?;
    file.set_len(1 << 30).tell("truncate")?;
    file.write_all_at(&[1; 4096], 512 << 20).tell("pwrite")?;
    file.sync_all().tell("fsync")?;
    let stat = file.metadata().tell("stat")?;
    same!("size", stat.len(), 1 << 30);
    if stat.blocks() > 2048 {
        return Err(format!("{} blocks for one page of data", stat.blocks()));
    }
    let seek = |to| rustix::fs::seek(&file, to);
    same!("first data", seek(rustix::fs::SeekFrom::Data(0)), Ok(512 << 20));
    same!("hole after it", seek(rustix::fs::SeekFrom::Hole(512 << 20)), Ok((512 << 20) + 4096));
    same!("no more data", seek(rustix::fs::SeekFrom::Data(600 << 20)), Err(Errno::NXIO));
    same!("first hole", seek(rustix::fs::SeekFrom::Hole(0)), Ok(0));
    let mut block = [9; 4096];
    file.read_exact_at(&mut block, 100 << 20).tell("pread")?;
    same!("a hole's content", block.iter().all(|byte| *byte == 0), true);
    Ok(())
}

pub(super) fn tmpfile(place: &Path) -> Result<(), String> {
    let open = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(place, flags, Mode::from_raw_mode(0o640)).map(File::from)
    };
    let mut file = open().tell("O_TMPFILE")?;
    file.write_all(b"hidden").tell("write")?;
    same!("links", file.metadata().tell("stat")?.nlink(), 0);
    same!("names", fs::read_dir(place).tell("readdir")?.count(), 0);
    let by_fd = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, by_fd, CWD, place.join("visible"), AtFlags::SYMLINK_FOLLOW).tell("linkat")?;
    same!("content", fs::read(place.join("visible")).tell("read")?, b"hidden");
    let stat = fs::metadata(place.join("visible")).tell("stat")?;
    same!("links and mode", (stat.nlink(), stat.mode() & 0o777), (1, 0o640));
    drop(open().tell("O_TMPFILE")?);
    same!("names", fs::read_dir(place).tell("readdir")?.count(), 1);
    Ok(())
}

pub(super) fn mmap_shared(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, &vec![b'.'; 3 * 4096])?;
    let mut map = Map::new(&file, 3 * 4096, true).tell("mmap")?;
    map.write(4090, b"across pages");
    map.sync().tell("msync")?;
    let mut got = [0; 12];
    file.read_exact_at(&mut got, 4090).tell("pread")?;
    same!("read after writing to the map", &got, b"across pages");
    file.write_all_at(b"from a write", 8192).tell("pwrite")?;
    same!("the map after a write", map.read(8192, 12), b"from a write");
    let other = OpenOptions::new().read(true).write(true).open(&path).tell("open")?;
    let other_map = Map::new(&other, 4096, true).tell("mmap again")?;
    map.write(0, b"seen by both");
    same!("another map", other_map.read(0, 12), b"seen by both");
    drop((map, other_map, file, other));
    same!("after all was closed", &fs::read(&path).tell("read")?[..12], b"seen by both");
    Ok(())
}

pub(super) fn mmap_private(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, &vec![b'.'; 4096])?;
    let mut map = Map::new(&file, 4096, false).tell("mmap")?;
    map.write(0, b"private");
    same!("the map", map.read(0, 8), b"private.");
    drop(map);
    same!("the file", &fs::read(&path).tell("read")?[..8], b"........");
    Ok(())
}

pub(super) fn direct(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let flags = OFlags::DIRECT.bits() as i32;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(&path);
    let file = file.tell("open with O_DIRECT")?;
    // An aligned buffer out of a larger one.
    let mut memory = vec![0u8; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[start..start + 8192];
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index / 7) as u8;
    }
    let want = buffer.to_vec();
    same!("written", file.write_at(buffer, 4096).tell("write")?, 8192);
    buffer.fill(0);
    same!("read", file.read_at(buffer, 4096).tell("read")?, 8192);
    same!("content", buffer == &want[..], true);
    same!("seen without O_DIRECT", fs::read(&path).tell("read")?[4096..] == want[..], true);
    Ok(())
}

pub(super) fn fallocate(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), b"x")?;
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).tell("fallocate")?;
    let stat = file.metadata().tell("stat")?;
    same!("size", stat.len(), 1 << 20);
    if stat.blocks() * 512 < 1 << 20 {
        return Err(format!("only {} blocks", stat.blocks()));
    }
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20).tell("fallocate, size kept")?;
    same!("size", file.metadata().tell("stat")?.len(), 1 << 20);
    Ok(())
}

pub(super) fn punch_hole(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), &vec![7; 1 << 20])?;
    file.sync_all().tell("fsync")?;
    let before = file.metadata().tell("stat")?.blocks();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 4096, 512 << 10).tell("fallocate")?;
    let stat = file.metadata().tell("stat")?;
    same!("size", stat.len(), 1 << 20);
    if stat.blocks() + 1000 > before {
        return Err(format!("{} blocks, {before} before", stat.blocks()));
    }
    let mut content = Vec::new();
    let mut reader = &file;
    reader.seek(SeekFrom::Start(0)).tell("seek")?;
    reader.read_to_end(&mut content).tell("read")?;
    let hole = 4096..4096 + (512 << 10);
    same!(
        "content",
        content.iter().enumerate().all(|(at, byte)| *byte == if hole.contains(&at) { 0 } else { 7 }),
        true
    );
    Ok(())
}

pub(super) fn zero_range(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), &vec![7; 16384])?;
    match rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 4096, 4096) {
        // Not every file system can.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other.tell("fallocate")?,
    }
    let content = fs::read(place.join("file")).tell("read")?;
    same!("content", content.iter().enumerate().all(|(at, byte)| *byte == if at / 4096 == 1 { 0 } else { 7 }), true);
    Ok(())
}

pub(super) fn append(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let open = || OpenOptions::new().append(true).create(true).open(&path).tell("open");
    let (mut a, mut b) = (open()?, open()?);
    for _ in 0..3 {
        a.write_all(b"a").tell("write")?;
        b.write_all(b"b").tell("write")?;
    }
    same!("content", fs::read(&path).tell("read")?, b"ababab");
    Ok(())
}

pub(super) fn truncate(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"0123456789")?;
    file.set_len(4).tell("shrink")?;
    file.set_len(8).tell("grow")?;
    same!("content", fs::read(&path).tell("read")?, b"0123\0\0\0\0");
    OpenOptions::new().write(true).truncate(true).open(&path).tell("open with O_TRUNC")?;
    same!("size", file.metadata().tell("stat")?.len(), 0);
    Ok(())
}

pub(super) fn large_blocks(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let mut file = create(&path, b"")?;
    let mut block = vec![0u8; 8 << 20];
    crate::pattern::Pattern::new(1).fill(&mut block);
    file.write_all_at(&block, 12345).tell("write")?;
    let mut got = vec![0u8; 8 << 20];
    File::open(&path).and_then(|other| other.read_exact_at(&mut got, 12345)).tell("read")?;
    same!("content", got == block, true);
    file.seek(SeekFrom::Start(0)).tell("seek")?;
    let parts: Vec<IoSlice<'_>> = (0..100).map(|index| IoSlice::new(&block[index * 100..][..100])).collect();
    same!("gathered", file.write_vectored(&parts).tell("writev")?, 10_000);
    let mut got = vec![0u8; 10_000];
    file.read_exact_at(&mut got, 0).tell("read")?;
    same!("content", got == block[..10_000], true);
    Ok(())
}

pub(super) fn copy_file_range(place: &Path) -> Result<(), String> {
    let from = create(&place.join("from"), &[5; 100_000])?;
    let to = create(&place.join("to"), b"")?;
    let (mut at, mut copied) = (0, 0);
    while copied < 100_000 {
        match rustix::fs::copy_file_range(&from, Some(&mut at), &to, None, 100_000 - copied).tell("copy")? {
            0 => break,
            count => copied += count,
        }
    }
    same!("content", fs::read(place.join("to")).tell("read")? == [5; 100_000], true);
    same!("by the standard library", fs::copy(place.join("from"), place.join("copy")).tell("copy")?, 100_000);
    Ok(())
}
