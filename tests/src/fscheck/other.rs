//! Special files, programs, errors, and the file system as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Tell, create, errno};

pub(super) fn special_files(place: &Path) -> Result<(), String> {
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

pub(super) fn many_open(place: &Path) -> Result<(), String> {
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

pub(super) fn execute(place: &Path) -> Result<(), String> {
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

pub(super) fn errors(place: &Path) -> Result<(), String> {
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

pub(super) fn sync(place: &Path) -> Result<(), String> {
    let file = create(&place.join("file"), &[1; 10_000])?;
    file.sync_all().tell("fsync")?;
    file.sync_data().tell("fdatasync")?;
    File::open(place).and_then(|directory| directory.sync_all()).tell("fsync of a directory")?;
    rustix::fs::syncfs(file.as_fd()).tell("syncfs")
}

pub(super) fn statfs(place: &Path) -> Result<(), String> {
    let stat = rustix::fs::statvfs(place).tell("statvfs")?;
    same!("sizes", stat.f_bsize > 0 && stat.f_blocks > 0 && stat.f_bavail <= stat.f_blocks, true);
    same!("longest name", stat.f_namemax, 255);
    Ok(())
}

pub(super) fn inotify(place: &Path) -> Result<(), String> {
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
