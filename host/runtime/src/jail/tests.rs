//! The jail is for a process of its own: each test runs the test program again, as a child that enters one.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::thread::CapabilitySet;

use super::*;
use crate::control::ReadOnly;

/// Names the directory that a child works with; unset in an ordinary test run.
const DIRECTORY: &str = "SANDBOX_TEST_JAIL";

/// Runs the ignored test `name` of this module in a process of its own, which works with a fresh directory.
fn run_child(name: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: entering a jail needs root");
        return;
    }
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("jail::tests::{name}"), "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).ends_with(DONE), "the child did not come to its end");
    assert_eq!(before, mounts(), "the machine's mounts changed");
}

const DONE: &str = "all checked\n";

fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

fn done() -> ! {
    std::io::stderr().write_all(DONE.as_bytes()).unwrap();
    std::process::exit(0);
}

fn share(source: PathBuf, name: &str, directory: bool, readonly: bool) -> Share {
    let readonly = if readonly { ReadOnly::All } else { ReadOnly::Nowhere };
    Share { source, name: name.into(), directory, recursive: directory, readonly, id_map: None, overlay: None }
}

fn entries(path: &str) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A root with a device, a link and a mount in it, a directory and a file.
fn make_sources(base: &Path) -> Vec<Share> {
    let rootfs = base.join("rootfs");
    fs::create_dir_all(rootfs.join("mnt")).unwrap();
    fs::write(rootfs.join("file"), "content").unwrap();
    std::os::unix::fs::symlink("file", rootfs.join("link")).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, rootfs.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).unwrap();
    fs::create_dir(base.join("volume")).unwrap();
    fs::write(base.join("resolv.conf"), "nameserver").unwrap();
    vec![
        share(rootfs.clone(), "rootfs", true, false),
        share(rootfs, "mounts/0", true, true),
        share(base.join("resolv.conf"), "mounts/1", false, false),
        share(base.join("volume"), "mounts/2", true, false),
    ]
}

#[test]
fn only_the_shares_are_seen() {
    run_child("child_sees_only_the_shares");
}

#[test]
#[ignore = "run by only_the_shares_are_seen"]
fn child_sees_only_the_shares() {
    let Some(base) = directory() else { return };
    let shares = make_sources(&base);
    // A mount inside a share, in a mount namespace of the child's own.
    sys::unshare_namespaces().unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    rustix::mount::mount("none", base.join("rootfs/mnt"), "tmpfs", MountFlags::empty(), None).unwrap();
    let handles = enter(&shares, &[]).unwrap();
    assert_eq!(handles.root, Path::new("/share"));
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/share"));
    assert_eq!(entries("/"), ["share"]);
    assert_eq!(entries("/share"), ["mounts", "rootfs"]);
    assert_eq!(entries("/share/mounts"), ["0", "1", "2"]);
    assert_eq!(entries("/share/rootfs"), ["file", "link", "mnt", "null"]);
    for path in ["/new", "/share/new", "/share/mounts/new", "/share/mounts/0/new", "/share/mounts/0/mnt/new"] {
        assert_eq!(fs::write(path, "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem, "{path}");
    }
    for path in ["/share/rootfs/new", "/share/rootfs/mnt/new", "/share/mounts/1", "/share/mounts/2/new"] {
        fs::write(path, "new").unwrap();
    }
    assert_eq!(fs::read_to_string("/share/rootfs/file").unwrap(), "content");
    assert_eq!(fs::File::open("/share/rootfs/null").unwrap_err().kind(), ErrorKind::PermissionDenied);
    let link = fs::read_to_string("/share/rootfs/link").unwrap_err();
    assert_eq!(Errno::from_io_error(&link), Some(Errno::LOOP));
    done();
}

#[test]
fn descriptors_limits_and_namespaces() {
    run_child("child_has_what_it_was_given");
}

#[test]
#[ignore = "run by descriptors_limits_and_namespaces"]
fn child_has_what_it_was_given() {
    let Some(base) = directory() else { return };
    let shares = make_sources(&base);
    let kept = fs::File::open(&base).unwrap().into_raw_fd();
    let lost = fs::File::open(&base).unwrap().into_raw_fd();
    let handles = enter(&shares, &[kept]).unwrap();
    let open: Vec<i32> =
        (0..64).filter(|fd: &i32| rustix::fs::readlinkat(&handles.proc_self_fd, fd.to_string(), []).is_ok()).collect();
    let mut expected = vec![0, 1, 2, kept, handles.proc_self_fd.as_raw_fd()];
    expected.sort_unstable();
    assert_eq!(open, expected);
    assert!(lost > kept && !open.contains(&lost) || lost == handles.proc_self_fd.as_raw_fd());
    let input = rustix::fs::statat(&handles.proc_self_fd, "0", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!(input.st_rdev, rustix::fs::makedev(1, 3), "standard input is the null device");
    assert_eq!(rustix::process::getrlimit(Resource::Core).maximum, Some(0));
    let files = rustix::process::getrlimit(Resource::Nofile);
    assert_eq!(files.current, files.maximum);
    assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
    let links: Vec<_> = (1..32).filter_map(|i| rustix::net::netdevice::index_to_name(&socket, i).ok()).collect();
    assert_eq!(links, ["lo"]);
    done();
}

#[test]
fn proc_self_fd_cannot_be_left() {
    run_child("child_stays_in_proc_self_fd");
}

#[test]
#[ignore = "run by proc_self_fd_cannot_be_left"]
fn child_stays_in_proc_self_fd() {
    let Some(base) = directory() else { return };
    let handles = enter(&make_sources(&base), &[]).unwrap();
    drop_privileges().unwrap();
    let proc = &handles.proc_self_fd;
    let here = rustix::fs::fstat(proc).unwrap();
    for path in ["..", "../..", "../../../.."] {
        let there = rustix::fs::statat(proc, path, rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((there.st_dev, there.st_ino), (here.st_dev, here.st_ino), "{path}");
    }
    for path in ["../status", "../root", "../cwd", "../../4000000/root"] {
        let result = rustix::fs::openat(proc, path, OFlags::PATH, Mode::empty());
        assert_eq!(result.unwrap_err(), Errno::NOENT, "{path}");
    }
    // What the file server does: opens a file anew by its descriptor, as root and as a user of the guest.
    let file = rustix::fs::open("/share/rootfs/file", OFlags::PATH, Mode::empty()).unwrap();
    fs::set_permissions("/share/rootfs", std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let name = file.as_raw_fd().to_string();
    rustix::fs::openat(proc, &name, OFlags::RDWR, Mode::empty()).unwrap();
    rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(1000), None).unwrap();
    rustix::fs::openat(proc, &name, OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(rustix::fs::openat(proc, &name, OFlags::RDWR, Mode::empty()).unwrap_err(), Errno::ACCESS);
    rustix::thread::set_thread_res_uid(None, rustix::process::Uid::ROOT, None).unwrap();
    assert_eq!(rustix::thread::capabilities(None).unwrap().effective, FILE_CAPABILITIES);
    done();
}

#[test]
fn only_file_capabilities_are_left() {
    run_child("child_has_only_file_capabilities");
}

#[test]
#[ignore = "run by only_file_capabilities_are_left"]
fn child_has_only_file_capabilities() {
    let Some(base) = directory() else { return };
    enter(&make_sources(&base), &[]).unwrap();
    drop_privileges().unwrap();
    let sets = rustix::thread::capabilities(None).unwrap();
    // CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID MKNOD SETFCAP, by their numbers.
    let expected = [0, 1, 3, 4, 6, 7, 27, 31].into_iter().fold(0, |bits, n| bits | 1u64 << n);
    assert_eq!(sets.effective.bits(), expected);
    assert_eq!(sets.permitted.bits(), expected);
    assert_eq!(sets.inheritable.bits(), 0);
    for number in 0..=40 {
        let cap = CapabilitySet::from_bits_retain(1 << number);
        assert!(!rustix::thread::capability_is_in_bounding_set(cap).unwrap(), "capability {number}");
        assert!(!rustix::thread::capability_is_in_ambient_set(cap).unwrap(), "capability {number}");
    }
    assert!(rustix::thread::no_new_privs().unwrap());
    assert_eq!(rustix::process::chroot(".").unwrap_err(), Errno::PERM);
    assert_eq!(sys::unshare_namespaces().unwrap_err(), Errno::PERM);
    drop_thread_capabilities().unwrap();
    assert_eq!(rustix::thread::capabilities(None).unwrap().permitted, CapabilitySet::empty());
    done();
}

#[test]
fn joined_shares_come_and_go() {
    run_child("child_puts_shares_into_a_jail");
}

#[test]
#[ignore = "run by joined_shares_come_and_go"]
fn child_puts_shares_into_a_jail() {
    let Some(base) = directory() else { return };
    let shares = make_sources(&base);
    let later: Vec<_> =
        shares.iter().map(|one| Share { name: format!("joined/b/{}", one.name), ..one.clone() }).collect();
    let open = |path: &str, flags| rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let (proc, outside) = (open("/proc/thread-self", OFlags::PATH), open("/proc/thread-self/ns/mnt", OFlags::RDONLY));
    enter(&shares, &[proc.as_raw_fd(), outside.as_raw_fd()]).unwrap();
    let inside = rustix::fs::openat(&proc, "ns/mnt", OFlags::RDONLY, Mode::empty()).unwrap();
    let mountinfo = || {
        let file = rustix::fs::openat(&proc, "mountinfo", OFlags::RDONLY, Mode::empty()).unwrap();
        std::io::read_to_string(File::from(file)).unwrap()
    };
    let before = mountinfo();
    let attach = || {
        sys::enter_mounts(outside.as_fd()).unwrap();
        JoinedShares::attach(&later, &inside).unwrap()
    };
    let seen = || fs::read_to_string("/share/joined/b/rootfs/file").is_ok_and(|text| text == "content");
    // By who put them there, and by another one if that was killed.
    let attached = attach();
    assert!(seen() && entries("/share/joined/b/mounts") == ["0", "1", "2"]);
    drop(attached);
    assert!(mountinfo() == before && entries("/share") == ["mounts", "rootfs"]);
    std::mem::forget(attach());
    assert!(seen());
    clear_joined("joined/c", &mountinfo(), &inside).unwrap();
    assert!(seen(), "another one's were taken");
    clear_joined("joined/b", &mountinfo(), &inside).unwrap();
    assert!(mountinfo() == before && entries("/share") == ["mounts", "rootfs"]);
    assert_eq!(fs::read_to_string("/share/rootfs/file").unwrap(), "content");
    clear_joined("joined/b", &mountinfo(), &inside).unwrap();
    done();
}

#[test]
fn bad_sources_are_refused() {
    for name in ["child_refuses_a_symlink", "child_refuses_another_kind", "child_refuses_what_is_not_there"] {
        run_child(name);
    }
}

#[test]
#[ignore = "run by bad_sources_are_refused"]
fn child_refuses_a_symlink() {
    let Some(base) = directory() else { return };
    std::os::unix::fs::symlink("/etc", base.join("link")).unwrap();
    let err = enter(&[share(base.join("link"), "rootfs", true, false)], &[]).unwrap_err();
    assert!(matches!(&err, JailError::Symlink(path) if *path == base.join("link")), "{err}");
    done();
}

#[test]
#[ignore = "run by bad_sources_are_refused"]
fn child_refuses_another_kind() {
    let Some(base) = directory() else { return };
    let err = enter(&[share(base.clone(), "mounts/0", false, false)], &[]).unwrap_err();
    assert_eq!(err.to_string(), format!("{} is a directory", base.display()));
    done();
}

#[test]
#[ignore = "run by bad_sources_are_refused"]
fn child_refuses_what_is_not_there() {
    let Some(base) = directory() else { return };
    let err = enter(&[share(base.join("none"), "rootfs", true, false)], &[]).unwrap_err();
    assert!(matches!(err, JailError::Source { errno: Errno::NOENT, .. }), "{err}");
    done();
}

#[test]
fn share_names_are_checked() {
    let check = |names: &[&str]| {
        let shares: Vec<_> = names.iter().map(|name| share("/".into(), name, true, false)).collect();
        shares::check_names(&shares)
    };
    check(&["rootfs", "mounts/0", "mounts/1", "mounts/10", "rootfs-2"]).unwrap();
    check(&[]).unwrap();
    for bad in ["", "/", "/rootfs", "..", "a/../b", "./a", "a\0b"] {
        assert!(matches!(check(&[bad]), Err(JailError::Name(name)) if name == bad), "{bad:?}");
    }
    for pair in [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]] {
        assert!(check(&pair).is_err(), "{pair:?}");
        assert!(check(&["a-b", pair[0], "a0", pair[1]]).is_err(), "{pair:?}");
    }
}
