//! What a local file system does, one check after the other. Run natively and in a container on the same directory, the
//! answers must be the same.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::sys::Map;

type Check = (&'static str, fn(&Path) -> Result<(), String>);

const CHECKS: &[Check] = &[
    ("owner", owner),
    ("mode", mode),
    ("umask and default modes", umask),
    ("directory with set-group-id", setgid_directory),
    ("access by another user", other_user),
    ("times", times),
    ("xattrs", xattrs),
    ("file capabilities", file_capabilities),
    ("hard links", hard_links),
    ("symlinks", symlinks),
    ("sparse files", sparse),
    ("O_TMPFILE", tmpfile),
    ("flock", flock),
    ("fcntl locks", fcntl_locks),
    ("mmap shared", mmap_shared),
    ("mmap private", mmap_private),
    ("O_DIRECT", direct),
    ("fallocate", fallocate),
    ("punch hole", punch_hole),
    ("zero range", zero_range),
    ("rename", rename),
    ("rename exchange", rename_exchange),
    ("rename noreplace", rename_noreplace),
    ("unlinked but open", unlinked_open),
    ("names of any byte", names),
    ("large directory", large_directory),
    ("append", append),
    ("truncate", truncate),
    ("vectors and large blocks", large_blocks),
    ("copy_file_range", copy_file_range),
    ("pipes, sockets and devices", special_files),
    ("many open files", many_open),
    ("execute", execute),
    ("errors", errors),
    ("sync", sync),
    ("statfs", statfs),
    ("inotify", inotify),
];

/// Runs all checks in a directory; prints a line for each and returns the number that failed.
pub fn all(directory: &Path, overlay: bool) -> u8 {
    let mut failed = 0;
    let whiteout: Check = ("rename whiteout", rename_whiteout);
    // overlayfs does not do this one, natively or shared.
    let more = if overlay { None } else { Some(&whiteout) };
    for (index, (name, check)) in CHECKS.iter().chain(more).enumerate() {
        let place = directory.join(format!("check-{index}"));
        let result = fs::create_dir_all(&place).map_err(|error| error.to_string()).and_then(|()| check(&place));
        match result {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                println!("{name}: FAILED: {error}");
                failed += 1;
            }
        }
        if let Err(error) = fs::remove_dir_all(&place) {
            println!("{name}: FAILED: cannot be removed: {error}");
            failed += 1;
        }
    }
    failed
}

macro_rules! same {
    ($what:expr, $got:expr, $want:expr) => {{
        let (got, want) = ($got, $want);
        if got != want {
            return Err(format!("{}: {:?} instead of {:?}", $what, got, want));
        }
    }};
}

trait Tell<T> {
    fn tell(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Tell<T> for Result<T, E> {
    fn tell(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

fn create(path: &Path, content: &[u8]) -> Result<File, String> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    let mut file = file.tell("create")?;
    file.write_all(content).tell("write")?;
    Ok(file)
}

fn owner(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    create(&path, b"x")?;
    chown(&path, Some(1234), Some(5678)).tell("chown")?;
    let stat = fs::metadata(&path).tell("stat")?;
    same!("owner", (stat.uid(), stat.gid()), (1234, 5678));
    chown(&path, None, Some(4_000_000_000)).tell("chown group")?;
    let stat = fs::metadata(&path).tell("stat")?;
    same!("owner", (stat.uid(), stat.gid()), (1234, 4_000_000_000));
    symlink("file", place.join("link")).tell("symlink")?;
    std::os::unix::fs::lchown(place.join("link"), Some(7), Some(8)).tell("lchown")?;
    let stat = fs::symlink_metadata(place.join("link")).tell("lstat")?;
    same!("owner of the link", (stat.uid(), stat.gid()), (7, 8));
    same!("owner of its target", fs::metadata(&path).tell("stat")?.uid(), 1234);
    Ok(())
}

fn mode(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    create(&path, b"x")?;
    for mode in [0o000, 0o400, 0o644, 0o777, 0o1755, 0o2755, 0o4755, 0o7777] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).tell("chmod")?;
        same!("mode", fs::metadata(&path).tell("stat")?.mode() & 0o7777, mode);
    }
    // A change of owner takes the set-user-id bit away.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).tell("chmod")?;
    chown(&path, Some(1), Some(1)).tell("chown")?;
    same!("mode after chown", fs::metadata(&path).tell("stat")?.mode() & 0o7777, 0o755);
    Ok(())
}

fn umask(place: &Path) -> Result<(), String> {
    let before = rustix::process::umask(Mode::from_raw_mode(0o027));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(place.join("file"));
    let directory = fs::DirBuilder::new().mode(0o777).create(place.join("directory"));
    rustix::process::umask(before);
    file.tell("create")?;
    directory.tell("mkdir")?;
    same!("mode of the file", fs::metadata(place.join("file")).tell("stat")?.mode() & 0o7777, 0o640);
    same!("mode of the directory", fs::metadata(place.join("directory")).tell("stat")?.mode() & 0o7777, 0o750);
    Ok(())
}

fn setgid_directory(place: &Path) -> Result<(), String> {
    let directory = place.join("directory");
    fs::create_dir(&directory).tell("mkdir")?;
    chown(&directory, None, Some(4321)).tell("chown")?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).tell("chmod")?;
    create(&directory.join("file"), b"")?;
    fs::create_dir(directory.join("below")).tell("mkdir")?;
    same!("group of a file", fs::metadata(directory.join("file")).tell("stat")?.gid(), 4321);
    let below = fs::metadata(directory.join("below")).tell("stat")?;
    same!("group and bit of a directory", (below.gid(), below.mode() & 0o2000), (4321, 0o2000));
    Ok(())
}

fn other_user(place: &Path) -> Result<(), String> {
    let path = place.join("secret");
    create(&path, b"secret")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).tell("chmod")?;
    let can = |script: &str| -> Result<bool, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(place).uid(1000).gid(1000);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().map(|status| status.success()).tell("sh")
    };
    same!("another user reads a private file", can("cat secret")?, false);
    same!("another user writes to it", can("echo x >>secret")?, false);
    same!("another user makes a file in root's directory", can("echo x >new")?, false);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).tell("chmod")?;
    same!("another user reads a public file", can("cat secret")?, true);
    fs::set_permissions(place, fs::Permissions::from_mode(0o1777)).tell("chmod")?;
    same!("another user makes a file in a public directory", can("echo x >new")?, true);
    let stat = fs::metadata(place.join("new")).tell("stat")?;
    same!("owner of that file", (stat.uid(), stat.gid()), (1000, 1000));
    same!("another user removes root's file from a sticky directory", can("rm -f secret")?, false);
    Ok(())
}

fn times(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"x")?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    for (atime, mtime) in [
        ((1, 1), (2, 999_999_999)),
        ((-86_400, 5), (-1, 0)),
        ((4_000_000_000, 123_456_789), (1_700_000_000, 987_654_321)),
    ] {
        let stamps = Timestamps { last_access: time(atime.0, atime.1), last_modification: time(mtime.0, mtime.1) };
        rustix::fs::futimens(&file, &stamps).tell("futimens")?;
        let stat = fs::metadata(&path).tell("stat")?;
        same!("access time", (stat.atime(), stat.atime_nsec()), atime);
        same!("modification time", (stat.mtime(), stat.mtime_nsec()), mtime);
    }
    let stamps = Timestamps { last_access: time(0, rustix::fs::UTIME_OMIT), last_modification: time(77, 0) };
    rustix::fs::futimens(&file, &stamps).tell("futimens")?;
    let stat = fs::metadata(&path).tell("stat")?;
    same!("access time left alone", (stat.atime(), stat.atime_nsec()), (4_000_000_000, 123_456_789));
    same!("modification time", stat.mtime(), 77);
    (&file).write_all(b"y").tell("write")?;
    drop(file);
    let stat = fs::metadata(&path).tell("stat")?;
    if stat.mtime() < 1_500_000_000 || stat.ctime() < 1_500_000_000 {
        return Err(format!("writing left the times at {} and {}", stat.mtime(), stat.ctime()));
    }
    Ok(())
}

fn xattrs(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"x")?;
    let long = vec![b'v'; 3000];
    for (name, value) in [("user.a", &b"1"[..]), ("user.empty", b""), ("user.bytes", b"\0\xff\n"), ("user.long", &long)]
    {
        rustix::fs::fsetxattr(&file, name, value, XattrFlags::CREATE).tell(name)?;
        let mut buffer = vec![0; 4096];
        let length = rustix::fs::getxattr(&path, name, &mut buffer).tell(name)?;
        same!(name, &buffer[..length], value);
    }
    same!("create again", rustix::fs::setxattr(&path, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    same!("replace nothing", rustix::fs::setxattr(&path, "user.b", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    same!("a short buffer", rustix::fs::getxattr(&path, "user.long", &mut vec![0; 10]), Err(Errno::RANGE));
    rustix::fs::removexattr(&path, "user.a").tell("removexattr")?;
    same!("after removal", rustix::fs::getxattr(&path, "user.a", &mut vec![0; 10]), Err(Errno::NODATA));
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::listxattr(&path, &mut names).tell("listxattr")?;
    let mut names: Vec<_> =
        names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")).collect();
    names.sort();
    same!("names", names, [&b"user.bytes"[..], b"user.empty", b"user.long"]);
    symlink("file", place.join("link")).tell("symlink")?;
    same!(
        "on a symlink",
        rustix::fs::lsetxattr(place.join("link"), "user.a", b"1", XattrFlags::empty()),
        Err(Errno::PERM)
    );
    rustix::fs::setxattr(place, "user.directory", b"1", XattrFlags::empty()).tell("on a directory")?;
    Ok(())
}

/// What `setcap` writes and `ping` had: package installation needs it.
fn file_capabilities(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    create(&path, b"x")?;
    // VFS_CAP_REVISION_2 with the effective bit, CAP_NET_RAW.
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&path, "security.capability", &value, XattrFlags::empty()).tell("set")?;
    let mut buffer = vec![0; 64];
    let length = rustix::fs::getxattr(&path, "security.capability", &mut buffer).tell("get")?;
    same!("capabilities", &buffer[..length], &value[..]);
    // Writing to the file takes them away.
    OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"y")).tell("write")?;
    same!("after writing", rustix::fs::getxattr(&path, "security.capability", &mut buffer), Err(Errno::NODATA));
    Ok(())
}

fn hard_links(place: &Path) -> Result<(), String> {
    let (a, b) = (place.join("a"), place.join("b"));
    create(&a, b"one")?;
    fs::hard_link(&a, &b).tell("link")?;
    let (stat_a, stat_b) = (fs::metadata(&a).tell("stat")?, fs::metadata(&b).tell("stat")?);
    same!("inode", stat_a.ino(), stat_b.ino());
    same!("links", stat_a.nlink(), 2);
    fs::write(&b, b"two").tell("write")?;
    same!("content by the other name", fs::read(&a).tell("read")?, b"two");
    fs::rename(&a, &b).tell("rename onto the same inode")?;
    same!("both names remain", (a.exists(), b.exists()), (true, true));
    fs::remove_file(&a).tell("unlink")?;
    same!("links", fs::metadata(&b).tell("stat")?.nlink(), 1);
    symlink("b", place.join("symlink")).tell("symlink")?;
    rustix::fs::linkat(CWD, place.join("symlink"), CWD, place.join("symlink2"), AtFlags::empty())
        .tell("link a symlink")?;
    same!("a linked symlink", fs::symlink_metadata(place.join("symlink2")).tell("lstat")?.is_symlink(), true);
    same!(
        "link a directory",
        fs::hard_link(place, place.join("c")).map_err(|error| error.kind()),
        Err(io::ErrorKind::PermissionDenied)
    );
    Ok(())
}

fn symlinks(place: &Path) -> Result<(), String> {
    let long = "x/".repeat(2000);
    for (index, target) in
        [&b"plain"[..], b"../up", b"/absolute/nowhere", b"\xff\xfe\n bytes", long.as_bytes()].into_iter().enumerate()
    {
        let link = place.join(format!("link-{index}"));
        symlink(OsStr::from_bytes(target), &link).tell("symlink")?;
        let got = fs::read_link(&link).tell("readlink")?;
        same!("target", got.as_os_str().as_bytes(), target);
        same!("size", fs::symlink_metadata(&link).tell("lstat")?.len(), target.len() as u64);
    }
    symlink("loop-b", place.join("loop-a")).tell("symlink")?;
    symlink("loop-a", place.join("loop-b")).tell("symlink")?;
    same!("a loop", errno(File::open(place.join("loop-a"))), Some(Errno::LOOP));
    create(&place.join("file"), b"x")?;
    symlink("file", place.join("good")).tell("symlink")?;
    let open = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(place.join("good"));
    same!("O_NOFOLLOW", errno(open), Some(Errno::LOOP));
    same!("through the link", fs::read(place.join("good")).tell("read")?, b"x");
    Ok(())
}

fn sparse(place: &Path) -> Result<(), String> {
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

fn tmpfile(place: &Path) -> Result<(), String> {
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

fn flock(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let first = create(&path, b"x")?;
    let second = OpenOptions::new().read(true).write(true).open(&path).tell("open")?;
    let lock = |file: &File, operation| rustix::fs::flock(file, operation);
    lock(&first, FlockOperation::LockExclusive).tell("lock")?;
    same!("a second lock", lock(&second, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    same!("a second shared lock", lock(&second, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    same!("of another process", child("flock", &path)?, Some(1));
    lock(&first, FlockOperation::LockShared).tell("downgrade")?;
    lock(&second, FlockOperation::NonBlockingLockShared).tell("share")?;
    lock(&second, FlockOperation::Unlock).tell("unlock")?;
    drop(first);
    same!("after closing", child("flock", &path)?, Some(0));
    Ok(())
}

fn fcntl_locks(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"0123456789")?;
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).tell("lock")?;
    same!("of another process", child("fcntl", &path)?, Some(1));
    // A waiting process gets the lock when it is given up.
    let mut waiting = probe(&["lock", "fcntl-wait"]).arg(&path).spawn().tell("spawn")?;
    std::thread::sleep(Duration::from_millis(300));
    same!("a waiting process", waiting.try_wait().tell("wait")?.is_none(), true);
    rustix::fs::fcntl_lock(&file, FlockOperation::Unlock).tell("unlock")?;
    same!("a waiting process ends with", waiting.wait().tell("wait")?.code(), Some(0));
    // Any close of the file gives the process's locks up.
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).tell("lock")?;
    drop(File::open(&path).tell("open")?);
    same!("after another descriptor's close", child("fcntl", &path)?, Some(0));
    Ok(())
}

/// The other process of the lock checks: 0 when it got the lock, 1 when someone else has it.
pub fn try_lock(kind: &str, path: &Path) -> Result<u8, String> {
    let file = OpenOptions::new().read(true).write(true).open(path).tell("open")?;
    let result = match kind {
        "flock" => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive),
        "fcntl" => rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive),
        "fcntl-wait" => rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive),
        _ => return Err(format!("unknown lock '{kind}'")),
    };
    match result {
        Ok(()) => Ok(0),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(1),
        Err(error) => Err(error.to_string()),
    }
}

fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments);
    command
}

fn child(kind: &str, path: &Path) -> Result<Option<i32>, String> {
    probe(&["lock", kind]).arg(path).status().map(|status| status.code()).tell("spawn")
}

fn mmap_shared(place: &Path) -> Result<(), String> {
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

fn mmap_private(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, &vec![b'.'; 4096])?;
    let mut map = Map::new(&file, 4096, false).tell("mmap")?;
    map.write(0, b"private");
    same!("the map", map.read(0, 8), b"private.");
    drop(map);
    same!("the file", &fs::read(&path).tell("read")?[..8], b"........");
    Ok(())
}

fn direct(place: &Path) -> Result<(), String> {
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

fn fallocate(place: &Path) -> Result<(), String> {
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

fn punch_hole(place: &Path) -> Result<(), String> {
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

fn zero_range(place: &Path) -> Result<(), String> {
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

fn rename(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let mut open = create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    fs::rename(at("a"), at("b")).tell("over a file")?;
    same!("content", fs::read(at("b")).tell("read")?, b"a");
    open.write_all(b"more").tell("write to the renamed file")?;
    same!("content", fs::read(at("b")).tell("read")?, b"amore");
    fs::create_dir_all(at("one/two/three")).tell("mkdir")?;
    fs::create_dir(at("empty")).tell("mkdir")?;
    same!(
        "over a full directory",
        errno(fs::rename(at("empty"), at("one"))).map(|e| e == Errno::NOTEMPTY || e == Errno::EXIST),
        Some(true)
    );
    same!("into itself", errno(fs::rename(at("one"), at("one/two/x"))), Some(Errno::INVAL));
    same!("a file over a directory", errno(fs::rename(at("b"), at("empty"))), Some(Errno::ISDIR));
    same!("a directory over a file", errno(fs::rename(at("empty"), at("b"))), Some(Errno::NOTDIR));
    fs::rename(at("one"), at("empty")).tell("over an empty directory")?;
    same!("what was in it", at("empty/two/three").is_dir(), true);
    create(&at("empty/two/file"), b"moved")?;
    fs::rename(at("empty/two"), at("two")).tell("to another directory")?;
    same!("content", fs::read(at("two/file")).tell("read")?, b"moved");
    Ok(())
}

fn rename_exchange(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let exchange = |a: &str, b: &str| rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE);
    create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    exchange("a", "b").tell("two files")?;
    same!(
        "content",
        (fs::read(at("a")).tell("read")?, fs::read(at("b")).tell("read")?),
        (b"b".to_vec(), b"a".to_vec())
    );
    fs::create_dir(at("d")).tell("mkdir")?;
    create(&at("d/inside"), b"")?;
    exchange("a", "d").tell("file and directory")?;
    same!("kinds", (at("a").is_dir(), at("d").is_file(), at("a/inside").exists()), (true, true, true));
    same!("with nothing", exchange("a", "nothing"), Err(Errno::NOENT));
    Ok(())
}

fn rename_noreplace(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let rename = |a: &str, b: &str| rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::NOREPLACE);
    create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    same!("onto a file", rename("a", "b"), Err(Errno::EXIST));
    same!("content", fs::read(at("b")).tell("read")?, b"b");
    rename("a", "c").tell("to a new name")?;
    same!("names", (at("a").exists(), at("c").exists()), (false, true));
    Ok(())
}

fn rename_whiteout(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    create(&at("a"), b"a")?;
    rustix::fs::renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::WHITEOUT).tell("rename")?;
    same!("content", fs::read(at("b")).tell("read")?, b"a");
    let stat = fs::symlink_metadata(at("a")).tell("stat")?;
    same!("what is left", (stat.file_type().is_char_device(), stat.rdev()), (true, 0));
    Ok(())
}

fn unlinked_open(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"still here")?;
    let reader = File::open(&path).tell("open")?;
    fs::remove_file(&path).tell("unlink")?;
    same!("links", file.metadata().tell("stat")?.nlink(), 0);
    file.write_all_at(b"STILL", 0).tell("write")?;
    let mut got = [0; 10];
    reader.read_exact_at(&mut got, 0).tell("read")?;
    same!("content", &got, b"STILL here");
    file.set_len(1 << 16).tell("truncate")?;
    same!("size", reader.metadata().tell("stat")?.len(), 1 << 16);
    file.set_permissions(fs::Permissions::from_mode(0o600)).tell("chmod")?;
    create(&path, b"another")?;
    reader.read_exact_at(&mut got, 0).tell("read")?;
    same!("content beside a new file of that name", &got, b"STILL here");
    let directory = place.join("directory");
    fs::create_dir(&directory).tell("mkdir")?;
    let open = File::open(&directory).tell("open directory")?;
    fs::remove_dir(&directory).tell("rmdir")?;
    same!(
        "a removed directory",
        rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).is_err(),
        true
    );
    Ok(())
}

fn names(place: &Path) -> Result<(), String> {
    let mut want: Vec<OsString> = Vec::new();
    for byte in (1..=255u8).filter(|byte| *byte != b'/' && *byte != b'.') {
        want.push(OsStr::from_bytes(&[byte]).to_owned());
    }
    let all: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'/').collect();
    want.push(OsStr::from_bytes(&all).to_owned());
    want.push(OsString::from("n".repeat(255)));
    want.push(OsString::from("..."));
    want.push(OsString::from("-rf"));
    for name in &want {
        create(&place.join(name), name.as_bytes())?;
    }
    let mut got = Vec::new();
    for entry in fs::read_dir(place).tell("readdir")? {
        got.push(entry.tell("readdir")?.file_name());
    }
    want.sort();
    got.sort();
    same!("number of names", got.len(), want.len());
    same!("names", got == want, true);
    for name in &want {
        same!("content", fs::read(place.join(name)).tell("read")?, name.as_bytes());
    }
    same!("a name too long", errno(File::create(place.join("n".repeat(256)))), Some(Errno::NAMETOOLONG));
    Ok(())
}

fn large_directory(place: &Path) -> Result<(), String> {
    const COUNT: usize = 600;
    for index in 0..COUNT {
        rustix::fs::mknodat(CWD, place.join(format!("entry-{index:05}")), FileType::RegularFile, Mode::RUSR, 0)
            .tell("mknod")?;
    }
    let mut seen: Vec<PathBuf> = Vec::new();
    // Removing while reading must neither skip nor repeat what is not removed.
    for entry in fs::read_dir(place).tell("readdir")? {
        let path = entry.tell("readdir")?.path();
        if seen.len().is_multiple_of(3) {
            fs::remove_file(&path).tell("unlink")?;
        }
        seen.push(path);
    }
    seen.sort();
    seen.dedup();
    same!("entries seen", seen.len(), COUNT);
    same!("entries left", fs::read_dir(place).tell("readdir")?.count(), COUNT - COUNT.div_ceil(3));
    Ok(())
}

fn append(place: &Path) -> Result<(), String> {
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

fn truncate(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"0123456789")?;
    file.set_len(4).tell("shrink")?;
    file.set_len(8).tell("grow")?;
    same!("content", fs::read(&path).tell("read")?, b"0123\0\0\0\0");
    OpenOptions::new().write(true).truncate(true).open(&path).tell("open with O_TRUNC")?;
    same!("size", file.metadata().tell("stat")?.len(), 0);
    Ok(())
}

fn large_blocks(place: &Path) -> Result<(), String> {
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

fn copy_file_range(place: &Path) -> Result<(), String> {
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

fn special_files(place: &Path) -> Result<(), String> {
    let mode = Mode::from_raw_mode(0o600);
    let fifo = place.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).tell("mkfifo")?;
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, b"through the pipe")
    });
    same!("through the pipe", fs::read(&fifo).tell("read")?, b"through the pipe");
    writer.join().map_err(|_| "writer panicked")?.tell("write")?;

    let socket = place.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).tell("bind")?;
    same!("a socket", fs::metadata(&socket).tell("stat")?.file_type().is_socket(), true);
    let mut client = std::os::unix::net::UnixStream::connect(&socket).tell("connect")?;
    client.write_all(b"hello").tell("write")?;
    drop(client);
    let mut got = Vec::new();
    listener.accept().and_then(|(mut stream, _)| stream.read_to_end(&mut got)).tell("accept")?;
    same!("through the socket", got, b"hello");

    rustix::fs::mknodat(CWD, place.join("null"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
        .tell("mknod")?;
    let stat = fs::metadata(place.join("null")).tell("stat")?;
    same!("a device", (stat.file_type().is_char_device(), stat.rdev()), (true, rustix::fs::makedev(1, 3)));
    Ok(())
}

fn many_open(place: &Path) -> Result<(), String> {
    let mut open = Vec::new();
    for index in 0..200 {
        open.push(create(&place.join(index.to_string()), index.to_string().as_bytes())?);
    }
    for (index, file) in open.iter().enumerate() {
        let mut got = vec![0; index.to_string().len()];
        file.read_exact_at(&mut got, 0).tell("read")?;
        same!("content", got, index.to_string().into_bytes());
    }
    Ok(())
}

fn execute(place: &Path) -> Result<(), String> {
    let program = place.join("program");
    fs::copy("/proc/self/exe", &program).tell("copy")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).tell("chmod")?;
    same!("a copy of this program", Command::new(&program).args(["exit", "42"]).status().tell("run")?.code(), Some(42));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).tell("chmod")?;
    same!("without x", errno(Command::new(&program).status()), Some(Errno::ACCESS));
    let script = place.join("script");
    fs::write(&script, "#!/bin/sh\nexit 43\n").tell("write")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).tell("chmod")?;
    same!("a script", Command::new(&script).status().tell("run")?.code(), Some(43));
    Ok(())
}

fn errors(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    create(&at("file"), b"x")?;
    fs::create_dir(at("directory")).tell("mkdir")?;
    same!("no such file", errno(File::open(at("nothing"))), Some(Errno::NOENT));
    same!("below a file", errno(File::open(at("file/x"))), Some(Errno::NOTDIR));
    same!("writing a directory", errno(File::create(at("directory"))), Some(Errno::ISDIR));
    same!(
        "creating again",
        errno(OpenOptions::new().write(true).create_new(true).open(at("file"))),
        Some(Errno::EXIST)
    );
    same!("mkdir again", errno(fs::create_dir(at("directory"))), Some(Errno::EXIST));
    same!("rmdir of a file", errno(fs::remove_dir(at("file"))), Some(Errno::NOTDIR));
    same!("unlink of a directory", errno(fs::remove_file(at("directory"))), Some(Errno::ISDIR));
    create(&at("directory/x"), b"")?;
    same!("rmdir of a full directory", errno(fs::remove_dir(at("directory"))), Some(Errno::NOTEMPTY));
    let directory = OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits() as i32).open(at("file"));
    same!("O_DIRECTORY", errno(directory), Some(Errno::NOTDIR));
    Ok(())
}

fn sync(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), &[1; 10_000])?;
    file.sync_all().tell("fsync")?;
    file.sync_data().tell("fdatasync")?;
    File::open(place).and_then(|directory| directory.sync_all()).tell("fsync of a directory")?;
    rustix::fs::syncfs(file.as_fd()).tell("syncfs")
}

fn statfs(place: &Path) -> Result<(), String> {
    let stat = rustix::fs::statvfs(place).tell("statvfs")?;
    same!("sizes", stat.f_bsize > 0 && stat.f_blocks > 0 && stat.f_bavail <= stat.f_blocks, true);
    same!("longest name", stat.f_namemax, 255);
    Ok(())
}

fn inotify(place: &Path) -> Result<(), String> {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).tell("inotify")?;
    add_watch(&watch, place, WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::DELETE).tell("watch")?;
    create(&place.join("file"), b"x")?;
    fs::remove_file(place.join("file")).tell("unlink")?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&watch, &mut buffer);
    let mut seen = ReadFlags::empty();
    while let Ok(event) = reader.next() {
        seen |= event.events();
    }
    same!("events", seen, ReadFlags::CREATE | ReadFlags::MODIFY | ReadFlags::DELETE);
    Ok(())
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw_os_error)
}
