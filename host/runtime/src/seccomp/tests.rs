//! Each call is tried by a process of its own that runs this test program again: a filter stays for good, and a forbidden call
//! kills.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use super::{ThreadKind, apply, raw};
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate};

/// Tells a child what to do: `KIND CALL`.
const TASK: &str = "SANDBOX_TEST_SECCOMP";
/// A fresh directory for the child.
const DIRECTORY: &str = "SANDBOX_TEST_DIRECTORY";
const KINDS: [ThreadKind; 5] =
    [ThreadKind::Vcpu, ThreadKind::Devices, ThreadKind::Fs, ThreadKind::Blk, ThreadKind::Main];

fn run(kind: ThreadKind, call: &str) -> ExitStatus {
    let directory = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["seccomp::tests::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{kind:?} {call}"))
        .env(DIRECTORY, directory.path())
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
        .status
}

fn assert_allowed(kind: ThreadKind, call: &str) {
    let status = run(kind, call);
    assert_eq!(status.code(), Some(DONE), "{call} on the {kind} thread: {status}");
}

fn assert_forbidden(kind: ThreadKind, call: &str) {
    let status = run(kind, call);
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{call} on the {kind} thread: {status}");
}

/// On every thread.
const FORBIDDEN: [&str; 14] = [
    "execute",
    "start a thread",
    "socket",
    "connect",
    "ptrace",
    "read another process",
    "mount",
    "open by handle",
    "signal",
    "signal another",
    "executable",
    "setuid",
    "chroot",
    "unshare",
];
const EXECUTABLE: libc::c_long = (libc::PROT_READ | libc::PROT_EXEC) as libc::c_long;
const PRIVATE: libc::c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as libc::c_long;

/// The status of a child that came to its end.
const DONE: i32 = 42;

#[test]
fn every_thread_can_live() {
    for kind in KINDS {
        assert_allowed(kind, "live");
        let aborted = run(kind, "abort");
        assert_eq!(aborted.signal(), Some(libc::SIGABRT), "abort on the {kind} thread: {aborted}");
    }
}

#[test]
fn no_thread_can_do_harm() {
    for kind in KINDS {
        assert_allowed(kind, "not executable");
        for call in FORBIDDEN {
            assert_forbidden(kind, call);
        }
    }
}

#[test]
fn only_the_file_server_opens_files() {
    assert_allowed(ThreadKind::Fs, "open");
    assert_allowed(ThreadKind::Fs, "files");
    for kind in [ThreadKind::Vcpu, ThreadKind::Devices, ThreadKind::Blk, ThreadKind::Main] {
        assert_forbidden(kind, "open");
        assert_forbidden(kind, "files");
    }
}

#[test]
fn only_a_vcpu_enters_the_guest() {
    assert_allowed(ThreadKind::Vcpu, "KVM_RUN");
    assert_forbidden(ThreadKind::Vcpu, "KVM_CREATE_VM");
    for kind in [ThreadKind::Devices, ThreadKind::Fs, ThreadKind::Blk, ThreadKind::Main] {
        assert_forbidden(kind, "KVM_RUN");
    }
}

#[test]
fn only_the_device_loop_accepts() {
    assert_allowed(ThreadKind::Devices, "accept");
    for kind in [ThreadKind::Vcpu, ThreadKind::Fs, ThreadKind::Blk, ThreadKind::Main] {
        assert_forbidden(kind, "accept");
    }
    for kind in KINDS {
        assert_forbidden(kind, "send to an address");
    }
}

#[test]
fn control_socket_and_waiting() {
    assert_allowed(ThreadKind::Main, "messages");
    assert_allowed(ThreadKind::Devices, "messages");
    assert_forbidden(ThreadKind::Vcpu, "messages");
    assert_forbidden(ThreadKind::Blk, "messages");
}

#[test]
fn a_block_devices_thread_reads_and_writes_what_is_open() {
    assert_allowed(ThreadKind::Blk, "content");
    assert_forbidden(ThreadKind::Blk, "longer");
    for kind in [ThreadKind::Vcpu, ThreadKind::Devices, ThreadKind::Main] {
        assert_forbidden(kind, "content");
    }
}

#[test]
#[ignore = "run by the other tests"]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (kind, call) = task.split_once(' ').unwrap();
    let kind = KINDS.into_iter().find(|k| format!("{k:?}") == kind).unwrap();
    let mut fixture = Fixture::new();
    apply(kind).unwrap();
    fixture.make_call(call);
    std::process::exit(DONE)
}

/// What must be had before the filter is on.
struct Fixture {
    listener: UnixListener,
    pair: (UnixStream, UnixStream),
    null: File,
    file: File,
    directory: PathBuf,
    epoll: OwnedFd,
}

impl Fixture {
    fn new() -> Self {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
        let listener = UnixListener::bind(directory.join("socket")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Fixture {
            listener,
            pair: UnixStream::pair().unwrap(),
            null: File::options().read(true).write(true).open("/dev/null").unwrap(),
            file: tempfile::tempfile().unwrap(),
            directory,
            epoll: rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
        }
    }

    /// Makes the call; whether it succeeds does not matter, only that it comes back.
    fn make_call(&mut self, call: &str) {
        match call {
            "live" => {
                live(&self.null);
                self.pair.0.write_all(b"report\n").unwrap();
            }
            "abort" => std::process::abort(),
            "execute" => raw::call(libc::SYS_execve, [0; 4]),
            "start a thread" => drop(std::thread::Builder::new().spawn(|| {})),
            "socket" => raw::call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0]),
            "send to an address" => raw::call(libc::SYS_sendto, [0; 4]),
            "connect" => raw::call(libc::SYS_connect, [0; 4]),
            "ptrace" => raw::call(libc::SYS_ptrace, [libc::PTRACE_PEEKDATA.into(), 1, 0, 0]),
            "read another process" => raw::call(libc::SYS_process_vm_readv, [1, 0, 0, 0]),
            "mount" => raw::call(libc::SYS_mount, [0; 4]),
            "open by handle" => raw::call(libc::SYS_open_by_handle_at, [0; 4]),
            "signal" => raw::call(libc::SYS_kill, [libc::c_long::from(std::process::id()), 0, 0, 0]),
            "signal another" => raw::call(libc::SYS_tgkill, [1, 1, 0, 0]),
            "executable" => raw::call(libc::SYS_mmap, [0, 4096, EXECUTABLE, PRIVATE]),
            "not executable" => raw::call(libc::SYS_mmap, [0, 4096, libc::PROT_READ.into(), PRIVATE]),
            "setuid" => raw::call(libc::SYS_setresuid, [0, 0, 0, 0]),
            "chroot" => raw::call(libc::SYS_chroot, [0; 4]),
            "unshare" => raw::call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
            "open" => drop(rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())),
            "files" => files(&self.directory),
            "KVM_RUN" => raw::ioctl(self.null.as_fd(), 0xae80),
            "KVM_CREATE_VM" => raw::ioctl(self.null.as_fd(), 0xae01),
            "accept" => drop(self.listener.accept()),
            "messages" => self.messages(),
            "content" => content(&self.file),
            "longer" => drop(fallocate(&self.file, FallocateFlags::empty(), 0, 8192)),
            other => panic!("no such call: {other}"),
        }
    }

    fn messages(&mut self) {
        use rustix::event::epoll;
        epoll::add(&self.epoll, &self.pair.1, epoll::EventData::new_u64(1), epoll::EventFlags::IN).unwrap();
        self.pair.1.set_nonblocking(true).unwrap();
        rustix::net::send(&self.pair.0, b"hello", rustix::net::SendFlags::NOSIGNAL).unwrap();
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        let mut buffer = [0; 5];
        rustix::net::recv(&self.pair.1, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap();
        self.pair.0.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

fn live(null: &File) {
    drop(std::hint::black_box(vec![1_u8; 64 << 20]));
    let mut grown: Vec<u8> = Vec::new();
    for _ in 0..1 << 20 {
        grown.extend_from_slice(b"grown");
    }
    assert!(std::collections::HashMap::from([(1, grown.len())]).contains_key(&1));
    std::thread::sleep(std::time::Duration::from_millis(1));
    assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
    drop(null.try_clone().unwrap());
    std::io::stderr().write_all(b"log\n").unwrap();
    let panicked = std::panic::catch_unwind(|| panic!("a panic's message can be printed"));
    assert!(panicked.is_err());
}

/// As the device does it: by preadv2 and pwritev2, fdatasync, fallocate.
fn content(file: &File) {
    let mut buffer = [7; 512];
    let none = rustix::io::ReadWriteFlags::empty();
    let written = rustix::io::pwritev2(file, &[std::io::IoSlice::new(&buffer)], 0, none);
    let read = rustix::io::preadv2(file, &mut [std::io::IoSliceMut::new(&mut buffer)], 0, none);
    assert_eq!((written, read), (Ok(512), Ok(512)));
    file.sync_data().unwrap();
    for how in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
        // Not every file system can.
        let _ = fallocate(file, how | FallocateFlags::KEEP_SIZE, 0, 512);
    }
}

fn files(directory: &std::path::Path) {
    std::fs::write(directory.join("file"), "content").unwrap();
    let folder = File::open(directory).unwrap();
    rustix::fs::renameat(&folder, "file", &folder, "renamed").unwrap();
    assert!(rustix::fs::Dir::read_from(&folder).unwrap().count() >= 1);
    rustix::fs::unlinkat(&folder, "renamed", rustix::fs::AtFlags::empty()).unwrap();
}
