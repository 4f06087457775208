//! What is known of a file besides its content: owner, mode, times, extended attributes.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{Tell, create};

pub(super) fn owner(place: &Path) -> Result<(), String> {
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

pub(super) fn mode(place: &Path) -> Result<(), String> {
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

pub(super) fn umask(place: &Path) -> Result<(), String> {
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

pub(super) fn setgid_directory(place: &Path) -> Result<(), String> {
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

pub(super) fn other_user(place: &Path) -> Result<(), String> {
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

pub(super) fn times(place: &Path) -> Result<(), String> {
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

pub(super) fn xattrs(place: &Path) -> Result<(), String> {
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
pub(super) fn file_capabilities(place: &Path) -> Result<(), String> {
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
