//! Files without a name, against what the host's own file system does.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use virtiofsd::fuse::{
    AttrOut, BatchForgetIn, CopyfilerangeIn, CreateIn, EntryOut, FSYNC_FDATASYNC, FallocateIn, FlushIn, ForgetOne,
    FsOptions, FsyncIn, GetattrIn, GetxattrIn, GetxattrOut, InHeader, LinkIn, LseekIn, LseekOut, Opcode, OpenIn,
    OpenOut, SetattrIn, SetattrValid, SetxattrInCompat, StatfsOut, WRITE_KILL_PRIV, WriteIn, WriteOut,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::tests_driver::{ANSWER, ANSWER_LEN, NEXT, REQUEST, WRITE, shared_directory};
use super::tmpfile::FIRST_NODE;
use crate::devices::VirtioDevice;

use super::tests_guest::*;

#[test]
fn a_file_is_made_written_read_and_named() {
    let mut guest = Guest::new();
    let (node, fh, attr) = guest.tmpfile();
    assert_eq!((attr.nlink, attr.mode, attr.size), (0, libc::S_IFREG | 0o640, 0));
    assert_eq!((u32_of(attr.uid), u32_of(attr.gid)), (USER, USER));
    let written: WriteOut = object(&done(guest.write((node, fh), 0, 0, b"hello world")));
    assert_eq!(written.size, 11);
    assert_eq!(done(guest.read((node, fh), 6, 100)), b"world");
    assert_eq!(done(guest.read((node, fh), 1 << 40, 100)), b"");
    assert_eq!((guest.attr(node).attr.size, guest.attr(node).attr.nlink), (11, 0));
    assert_eq!(std::fs::read_dir(&guest.root).unwrap().count(), 1, "only `file`");
    let entry: EntryOut = object(&done(guest.link(node, ROOT, "named")));
    assert!(entry.nodeid < FIRST_NODE, "virtiofsd's");
    assert_eq!((entry.attr.ino, entry.attr.nlink, entry.attr.size), (attr.ino, 1, 11));
    let host = std::fs::metadata(guest.root.join("named")).unwrap();
    assert_eq!((host.ino(), host.uid(), host.nlink()), (attr.ino, USER, 1));
    assert_eq!(std::fs::read(guest.root.join("named")).unwrap(), b"hello world");
    // The open file goes on, and the guest is not to trust what it knew of it.
    let out = guest.attr(node);
    assert_eq!((out.attr.nlink, out.attr_valid), (1, 0));
    done(guest.write((node, fh), 0, libc::O_APPEND, b"!"));
    assert_eq!(std::fs::read(guest.root.join("named")).unwrap(), b"hello world!");
    assert_eq!(guest.driver.lookup("named"), Ok(attr.ino));
}

#[test]
fn naming_twice_is_as_on_the_host() {
    let mut guest = Guest::new();
    let (node, _, _) = guest.tmpfile();
    let local = rustix::fs::open(&guest.root, OFlags::TMPFILE | OFlags::RDWR, Mode::RWXU).unwrap();
    let source = format!("/proc/self/fd/{}", local.as_raw_fd());
    let on_host =
        |name: &str, root: &Path| rustix::fs::linkat(CWD, &source, CWD, root.join(name), AtFlags::SYMLINK_FOLLOW).err();
    let root = guest.root.clone();
    for name in ["one", "one", "two"] {
        let host = on_host(&format!("host-{name}"), &root);
        let here = guest.link(node, ROOT, name);
        assert_eq!((here.0 != 0).then(|| error(here)), host, "{name}");
    }
    for name in ["one", "two", "host-one", "host-two"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
    // Had names once, has none any more.
    assert_eq!(on_host("host-three", &root), Some(Errno::NOENT));
    assert_eq!(error(guest.link(node, ROOT, "three")), Errno::NOENT);
}

#[test]
fn an_exclusive_file_never_gets_a_name() {
    let mut guest = Guest::new();
    let answer = guest.tmpfile_as(USER, ROOT, RDWR | libc::O_EXCL as u32, 0o600);
    let (node, fh, _) = opened(&done(answer));
    assert_eq!(error(guest.link(node, ROOT, "named")), Errno::NOENT);
    done(guest.write((node, fh), 0, 0, b"works"));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let mut guest = Guest::new();
    let (node, _, _) = guest.tmpfile();
    for name in ["", ".", "..", "/", "../x", "/tmp/x", "a/b", "a\0b"] {
        assert_eq!(error(guest.link(node, ROOT, name)), Errno::INVAL, "{name:?}");
    }
    assert_eq!(error(guest.link(node, ROOT, &"x".repeat(300))), Errno::NAMETOOLONG);
    let bare = [LinkIn { oldnodeid: node }.as_slice(), b"no-nul"].concat();
    assert_eq!(error(guest.driver.request(Opcode::Link as u32, ROOT, &bare)), Errno::INVAL);
    assert_eq!(error(guest.link(node, node, "x")), Errno::NOTDIR);
    assert_eq!(error(guest.link(node, 77, "x")), Errno::BADF);
    assert_eq!(error(guest.link(node | 1 << 50, ROOT, "x")), Errno::BADF);
    assert_eq!(error(guest.link(node, ROOT, "file")), Errno::EXIST);
    let file = guest.driver.entry("file").unwrap().nodeid;
    assert_eq!(error(guest.link(node, file, "x")), Errno::NOTDIR);
}

#[test]
fn a_file_in_a_directory_below_can_be_named_elsewhere() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.root.join("below")).unwrap();
    let below = guest.driver.entry("below").unwrap().nodeid;
    let answer = guest.tmpfile_as(0, below, RDWR, 0o600);
    let (node, _, _) = opened(&done(answer));
    done(guest.link(node, ROOT, "above"));
    done(guest.link(node, below, "here"));
    let inode = |name: &str| std::fs::metadata(guest.root.join(name)).unwrap().ino();
    assert_eq!(inode("above"), inode("below/here"));
}

#[test]
fn attributes_can_be_set() {
    let mut guest = Guest::new();
    let (node, fh, _) = guest.tmpfile();
    done(guest.write((node, fh), 0, 0, b"0123456789"));
    let set = |guest: &mut Guest, valid: SetattrValid, set: SetattrIn| {
        object::<AttrOut>(&done(guest.call(Opcode::Setattr, node, SetattrIn { valid: valid.bits(), ..set }, b""))).attr
    };
    let none = SetattrIn::default;
    let attr = set(&mut guest, SetattrValid::MODE, SetattrIn { mode: libc::S_IFREG | 0o6755, ..none() });
    assert_eq!(attr.mode, libc::S_IFREG | 0o6755);
    let size = SetattrValid::SIZE | SetattrValid::KILL_SUIDGID;
    let attr = set(&mut guest, size, SetattrIn { size: 4, ..none() });
    assert_eq!((attr.size, attr.mode & 0o7777), (4, 0o755));
    let attr = set(&mut guest, SetattrValid::UID, SetattrIn { uid: 7.into(), ..none() });
    assert_eq!((u32_of(attr.uid), u32_of(attr.gid)), (7, USER));
    let attr = set(&mut guest, SetattrValid::GID, SetattrIn { gid: 8.into(), ..none() });
    assert_eq!((u32_of(attr.uid), u32_of(attr.gid)), (7, 8));
    let times = SetattrIn { atime: 1000, atimensec: 5, ..none() };
    let attr = set(&mut guest, SetattrValid::ATIME, times);
    assert_eq!((attr.atime, attr.atimensec), (1000, 5));
    assert_ne!(attr.mtime, 0);
    let attr = set(&mut guest, SetattrValid::MTIME | SetattrValid::CTIME, SetattrIn { mtime: 2000, ..none() });
    assert_eq!((attr.atime, attr.mtime), (1000, 2000));
    let attr = set(&mut guest, SetattrValid::MTIME | SetattrValid::MTIME_NOW, none());
    assert!(attr.mtime > 1_000_000_000 && attr.atime == 1000);
    let negative = SetattrIn { valid: SetattrValid::SIZE.bits(), size: 1 << 63, ..none() };
    assert_eq!(error(guest.call(Opcode::Setattr, node, negative, b"")), Errno::INVAL);
    assert_eq!(done(guest.read((node, fh), 0, 100)), b"0123");
}

#[test]
fn writing_takes_set_user_id_away_where_the_guest_asks() {
    let mut guest = Guest::new();
    let (node, fh, _) = guest.tmpfile();
    let set = SetattrIn { valid: SetattrValid::MODE.bits(), mode: 0o4755, ..Default::default() };
    done(guest.call(Opcode::Setattr, node, set, b""));
    done(guest.write((node, fh), 0, 0, b"x"));
    assert_eq!(guest.attr(node).attr.mode & 0o7777, 0o4755, "root's write");
    let write = WriteIn { fh, size: 1, write_flags: WRITE_KILL_PRIV, ..Default::default() };
    done(guest.call(Opcode::Write, node, write, b"y"));
    assert_eq!(guest.attr(node).attr.mode & 0o7777, 0o755);
}

#[test]
fn a_file_can_be_opened_again() {
    let mut guest = Guest::new();
    let (node, fh, _) = guest.tmpfile();
    done(guest.write((node, fh), 0, 0, b"content"));
    let open = |guest: &mut Guest, flags: i32| {
        object::<OpenOut>(&done(guest.call(Opcode::Open, node, OpenIn { flags: flags as u32, open_flags: 0 }, b""))).fh
    };
    let reader = open(&mut guest, libc::O_RDONLY);
    assert_eq!(done(guest.read((node, reader), 0, 100)), b"content");
    assert_eq!(error(guest.write((node, reader), 0, 0, b"x")), Errno::BADF);
    let writer = open(&mut guest, libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT | libc::O_EXCL | libc::O_APPEND);
    assert_eq!(guest.attr(node).attr.size, 0);
    assert_eq!(error(guest.read((node, writer), 0, 1)), Errno::BADF);
    done(guest.write((node, writer), 0, libc::O_APPEND, b"a"));
    done(guest.write((node, writer), 0, libc::O_APPEND, b"b"));
    assert_eq!(done(guest.read((node, fh), 0, 100)), b"ab");
    for fh in [reader, writer, fh] {
        done(guest.release((node, fh)));
        assert_eq!(error(guest.release((node, fh))), Errno::BADF);
    }
    // A handle is good for its own node only.
    let (other, other_fh, _) = guest.tmpfile();
    assert_eq!(error(guest.read((node, other_fh), 0, 1)), Errno::BADF);
    assert_eq!(error(guest.release((node, other_fh))), Errno::BADF);
    done(guest.read((other, other_fh), 0, 1));
}

#[test]
fn space_and_holes() {
    let mut guest = Guest::new();
    let (node, fh, _) = guest.tmpfile();
    let allocate = FallocateIn { fh, offset: 0, length: 1 << 20, ..Default::default() };
    done(guest.call(Opcode::Fallocate, node, allocate, b""));
    assert_eq!(guest.attr(node).attr.size, 1 << 20);
    for bad in [FallocateIn { length: 1 << 63, ..allocate }, FallocateIn { offset: u64::MAX, ..allocate }] {
        assert_eq!(error(guest.call(Opcode::Fallocate, node, bad, b"")), Errno::INVAL);
    }
    let seek = |guest: &mut Guest, offset: u64, whence: i32| {
        guest.call(Opcode::Lseek, node, LseekIn { fh, offset, whence: whence as u32, padding: 0 }, b"")
    };
    let end: LseekOut = object(&done(seek(&mut guest, 0, libc::SEEK_END)));
    assert_eq!(end.offset, 1 << 20);
    done(seek(&mut guest, 0, libc::SEEK_HOLE));
    assert_eq!(error(seek(&mut guest, 1 << 21, libc::SEEK_DATA)), Errno::NXIO);
    assert_eq!(error(seek(&mut guest, u64::MAX, libc::SEEK_DATA)), Errno::NXIO);
    assert_eq!(error(seek(&mut guest, 0, 99)), Errno::INVAL);
    for fsync_flags in [0, FSYNC_FDATASYNC] {
        done(guest.call(Opcode::Fsync, node, FsyncIn { fh, fsync_flags, padding: 0 }, b""));
    }
    done(guest.call(Opcode::Flush, node, FlushIn { fh, ..Default::default() }, b""));
    let statfs: StatfsOut = object(&done(guest.driver.request(Opcode::Statfs as u32, node, b"")));
    assert!(statfs.st.blocks > 0 && statfs.st.namelen == 255);
    assert_eq!(error(guest.write((node, fh), u64::MAX, 0, b"x")), Errno::INVAL);
    assert_eq!(error(guest.write((node, fh), i64::MAX as u64, 0, b"xy")), Errno::INVAL);
}

#[test]
fn copies_between_nameless_files_only() {
    let mut guest = Guest::new();
    let ((from, from_fh, _), (to, to_fh, _)) = (guest.tmpfile(), guest.tmpfile());
    done(guest.write((from, from_fh), 0, 0, b"0123456789"));
    let copy = CopyfilerangeIn {
        fh_in: from_fh,
        off_in: 2,
        nodeid_out: to,
        fh_out: to_fh,
        off_out: 1,
        len: u64::MAX,
        flags: 0,
    };
    let out: WriteOut = object(&done(guest.call(Opcode::CopyFileRange, from, copy, b"")));
    assert_eq!(out.size, 8);
    assert_eq!(done(guest.read((to, to_fh), 0, 100)), b"\x0023456789");
    let theirs = guest.driver.entry("file").unwrap().nodeid;
    assert_eq!(error(guest.call(Opcode::CopyFileRange, theirs, copy, b"")), Errno::XDEV);
    let copy = CopyfilerangeIn { nodeid_out: theirs, ..copy };
    assert_eq!(error(guest.call(Opcode::CopyFileRange, from, copy, b"")), Errno::XDEV);
}

#[test]
fn extended_attributes() {
    let mut guest = Guest::new();
    let (node, _, _) = guest.tmpfile();
    let get = |guest: &mut Guest, size: u32, name: &[u8]| {
        guest.call(Opcode::Getxattr, node, GetxattrIn { size, padding: 0 }, &[name, b"\0"].concat())
    };
    assert_eq!(error(get(&mut guest, 100, b"user.x")), Errno::NODATA);
    let set = SetxattrInCompat { size: 5, flags: 0 };
    let answer = guest.call(Opcode::Setxattr, node, set, b"user.x\0value");
    if answer.0 == -libc::EOPNOTSUPP {
        eprintln!("the file system has no extended attributes");
        return;
    }
    done(answer);
    assert_eq!(error(guest.call(Opcode::Setxattr, node, set, b"user.x\0other!")), Errno::INVAL);
    let create = SetxattrInCompat { size: 5, flags: libc::XATTR_CREATE as u32 };
    assert_eq!(error(guest.call(Opcode::Setxattr, node, create, b"user.x\0other")), Errno::EXIST);
    assert_eq!(object::<GetxattrOut>(&done(get(&mut guest, 0, b"user.x"))).size, 5);
    assert_eq!(done(get(&mut guest, u32::MAX, b"user.x")), b"value");
    assert_eq!(error(get(&mut guest, 2, b"user.x")), Errno::RANGE);
    assert_eq!(error(get(&mut guest, 100, &[b'x'; 300])), Errno::RANGE);
    assert_eq!(error(get(&mut guest, 100, b"system.posix_acl_access")), Errno::NOTSUP, "not agreed on");
    let list = GetxattrIn { size: 4096, padding: 0 };
    let names = done(guest.call(Opcode::Listxattr, node, list, b""));
    assert!(names.split_inclusive(|byte| *byte == 0).any(|name| name == b"user.x\0"));
    let size: GetxattrOut = object(&done(guest.call(Opcode::Listxattr, node, GetxattrIn::default(), b"")));
    assert_eq!(size.size as usize, names.len());
    done(guest.driver.request(Opcode::Removexattr as u32, node, b"user.x\0"));
    assert_eq!(error(guest.driver.request(Opcode::Removexattr as u32, node, b"user.x\0")), Errno::NODATA);
}

#[test]
fn forgotten_and_released_files_are_closed() {
    let mut guest = Guest::new();
    let before = guest.descriptors();
    let (first, second) = (guest.tmpfile(), guest.tmpfile());
    assert_eq!(guest.descriptors(), before + 2, "one each");
    done(guest.release((first.0, first.1)));
    assert_eq!(guest.descriptors(), before + 2);
    guest.forget(first.0);
    assert_eq!(guest.descriptors(), before + 1);
    // The other way round.
    guest.forget(second.0);
    assert_eq!(error(guest.call(Opcode::Getattr, second.0, GetattrIn::default(), b"")), Errno::BADF);
    done(guest.write((second.0, second.1), 0, 0, b"still open"));
    assert_eq!(guest.descriptors(), before + 1);
    done(guest.release((second.0, second.1)));
    assert_eq!(guest.descriptors(), before);
}

#[test]
fn forgets_of_both_kinds_in_one_request() {
    let mut guest = Guest::new();
    let before = guest.descriptors();
    let theirs = guest.driver.entry("file").unwrap().nodeid;
    let files = [guest.tmpfile(), guest.tmpfile(), guest.tmpfile()];
    for (node, fh, _) in files {
        done(guest.release((node, fh)));
    }
    assert_eq!(guest.descriptors(), before + 4);
    let one = |nodeid| ForgetOne { nodeid, nlookup: 1 };
    let list = [one(files[0].0), one(theirs), one(files[2].0), one(FIRST_NODE | 1 << 40), one(u64::MAX), one(0)];
    let mut body = BatchForgetIn { count: list.len() as u32, dummy: 0 }.as_slice().to_vec();
    list.iter().for_each(|one| body.extend_from_slice(one.as_slice()));
    guest.tell(Opcode::BatchForget, 0, &body);
    assert_eq!(guest.descriptors(), before + 1);
    assert_eq!(guest.attr(files[1].0).attr.nlink, 0);
    // More than there are.
    let body = [BatchForgetIn { count: 1000, dummy: 0 }.as_slice(), one(files[1].0).as_slice()].concat();
    guest.tell(Opcode::BatchForget, 0, &body);
    assert_eq!(guest.descriptors(), before);
}

#[test]
fn no_more_files_than_the_share() {
    let mut guest = Guest::new();
    // 100 open files in all, one in eight of them.
    let files: Vec<_> = (0..12).map(|_| guest.tmpfile()).collect();
    assert_eq!(error(guest.tmpfile_as(USER, ROOT, RDWR, 0o600)), Errno::NFILE);
    let open = guest.call(Opcode::Open, files[0].0, OpenIn::default(), b"");
    assert_eq!(error(open), Errno::NFILE);
    guest.forget(files[0].0);
    done(guest.release((files[0].0, files[0].1)));
    guest.tmpfile();
}

#[test]
fn a_new_session_knows_no_files() {
    let mut guest = Guest::new();
    let before = guest.descriptors();
    let (node, fh, _) = guest.tmpfile();
    guest.driver.init();
    assert_eq!(error(guest.read((node, fh), 0, 1)), Errno::BADF);
    assert_eq!(guest.descriptors(), before);
    let (again, ..) = guest.tmpfile();
    assert_ne!(again, node, "numbers are not used again");
    guest.tell(Opcode::Destroy, 0, b"");
    guest.driver.init();
    assert_eq!(guest.descriptors(), before);
    guest.tmpfile();
    guest.driver.fs.reset();
    assert_eq!(guest.descriptors(), before);
}

#[test]
fn what_the_directory_does_not_allow() {
    let mut guest = Guest::new();
    // A guest that does not send groups gets by without their checks: its kernel has made them.
    guest.driver.init_with((FsOptions::INIT_EXT | FsOptions::CREATE_SUPP_GROUP).bits());
    let file = guest.driver.entry("file").unwrap().nodeid;
    assert_eq!(error(guest.tmpfile_as(USER, file, RDWR, 0o600)), Errno::NOTDIR);
    assert_eq!(error(guest.tmpfile_as(USER, 4711, RDWR, 0o600)), Errno::BADF);
    let (node, ..) = guest.tmpfile();
    assert_eq!(error(guest.tmpfile_as(USER, node, RDWR, 0o600)), Errno::NOTDIR);
    rustix::fs::chmod(&guest.root, Mode::from_bits_retain(0o755)).unwrap();
    assert_eq!(error(guest.tmpfile_as(USER, ROOT, RDWR, 0o600)), Errno::ACCESS);
    // Root's capabilities are back after that.
    let answer = guest.tmpfile_as(0, ROOT, RDWR, 0o600);
    let (_, _, attr) = opened(&done(answer));
    assert_eq!((u32_of(attr.uid), u32_of(attr.gid)), (0, 0));
}

#[test]
fn a_read_only_mount_stays_so_though_the_directory_is_there_writable_too() {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
        eprintln!("no mount namespace to be had");
        return;
    }
    use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let dir = shared_directory();
    for name in ["rw", "ro"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let (rw, ro) = (dir.path().join("rw"), dir.path().join("ro"));
    mount_bind(&rw, &ro).unwrap();
    mount_remount(&ro, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    let mut guest = Guest::at(dir.path());
    let nodes = ["rw", "ro"].map(|name| guest.driver.entry(name).unwrap());
    assert_eq!(nodes[0].attr.ino, nodes[1].attr.ino);
    for _ in 0..3 {
        let answer = guest.tmpfile_as(0, nodes[0].nodeid, RDWR, 0o600);
        let (node, ..) = opened(&done(answer));
        assert_eq!(error(guest.tmpfile_as(0, nodes[1].nodeid, RDWR, 0o600)), Errno::ROFS);
        assert_eq!(error(guest.link(node, nodes[1].nodeid, "x")), Errno::ROFS);
    }
    drop(guest);
    rustix::mount::unmount(&ro, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn file_systems_without_nameless_files() {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let cannot = |dir: &str| rustix::fs::open(dir, flags, Mode::RWXU).is_err_and(|err| err == Errno::OPNOTSUPP);
    let Some(dir) = ["/proc", "/sys", "/dev/pts", "/sys/fs/cgroup"].into_iter().find(|dir| cannot(dir)) else {
        eprintln!("every file system here has them");
        return;
    };
    let mut guest = Guest::at(Path::new(dir));
    assert_eq!(error(guest.tmpfile_as(0, ROOT, RDWR, 0o600)), Errno::OPNOTSUPP);
}

#[test]
fn umask_and_groups_as_agreed_on() {
    let mut guest = Guest::new();
    let masked = |guest: &mut Guest| {
        let answer = guest.tmpfile_as(USER, ROOT, RDWR, 0o666);
        opened(&done(answer)).2.mode & 0o7777
    };
    assert_eq!(masked(&mut guest), 0o666, "the guest has applied its umask");
    let acl = FsOptions::POSIX_ACL | FsOptions::DONT_MASK | FsOptions::SETXATTR_EXT;
    let all = acl | FsOptions::INIT_EXT | FsOptions::CREATE_SUPP_GROUP;
    guest.driver.init_with(all.bits());
    assert_eq!(masked(&mut guest), 0o644);
    // A directory that only a supplementary group may write to.
    rustix::fs::chmod(&guest.root, Mode::from_bits_retain(0o775)).unwrap();
    std::os::unix::fs::chown(&guest.root, None, Some(4321)).unwrap();
    assert_eq!(error(guest.tmpfile_as(USER, ROOT, RDWR, 0o600)), Errno::ACCESS);
    let create = CreateIn { flags: RDWR, mode: 0o600, ..Default::default() };
    let with = |words: [u32; 4]| [create.as_slice(), b"/\0", &words.map(u32::to_le_bytes).concat()].concat();
    let body = with([16, 32, 1, 4321]);
    let answer = guest.driver.request_as(USER, Opcode::TmpFile as u32, ROOT, &body);
    opened(&done(answer));
    // Not so for a later caller without that group.
    assert_eq!(error(guest.tmpfile_as(USER, ROOT, RDWR, 0o600)), Errno::ACCESS);
    for bad in [[16, 32, 2, 4321], [0, 32, 1, 4321], [400, 32, 1, 4321], [16, 1, 1, 4321], [16, 32, u32::MAX, 0]] {
        let answer = guest.driver.request_as(USER, Opcode::TmpFile as u32, ROOT, &with(bad));
        assert_eq!(error(answer), Errno::INVAL, "{bad:?}");
    }
}

#[test]
fn directories_are_found_among_many_descriptors() {
    let mut guest = Guest::new();
    let _many: Vec<_> = (0..200).map(|_| File::open(&guest.root).unwrap()).collect();
    // Another thread takes the number that virtiofsd was to get, now and then.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(File::open("/proc/self/fd").unwrap());
            }
        });
        for _ in 0..200 {
            let (node, fh, _) = guest.tmpfile();
            guest.forget(node);
            done(guest.release((node, fh)));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn random_requests_for_nameless_files_are_survived() {
    let mut guest = Guest::new();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut files = Vec::new();
    for round in 0..4000 {
        if round % 100 == 0 {
            guest.driver.init();
            files = (0..5).map(|_| guest.tmpfile()).collect();
        }
        let mut body = vec![0; random() as usize % 160];
        body.iter_mut().for_each(|byte| *byte = if random() % 4 == 0 { random() as u8 } else { 0 });
        // Often a node and a handle that exist, the handle often the node's.
        let (node, fh, _) = files[random() as usize % files.len()];
        let (other, other_fh, _) = files[random() as usize % files.len()];
        let first = [fh, fh, node, other_fh][random() as usize % 4];
        for (at, value) in [(0, first), (16, other), (24, other_fh)] {
            if body.len() >= at + 8 && random() % 2 == 0 {
                body[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        let opcode = match random() as u32 % 60 {
            init if init == Opcode::Init as u32 => Opcode::TmpFile as u32,
            opcode => opcode,
        };
        let parent = if random() % 4 == 0 { ROOT } else { node };
        let claimed = if random() % 4 == 0 { random() as u32 } else { (40 + body.len()) as u32 };
        let header = InHeader { len: claimed, opcode, unique: 1, nodeid: parent, ..Default::default() };
        guest.driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
        guest.driver.memory.write_slice(&body, GuestAddress(REQUEST + 40)).unwrap();
        let answer = random() as u32 % ANSWER_LEN;
        let chain = [(REQUEST, 40 + body.len() as u32, NEXT, 1), (ANSWER, answer, WRITE, 0)];
        assert!(guest.driver.send(1, &chain).is_some(), "opcode {opcode} node {parent:#x} length {claimed} {body:?}");
    }
    guest.driver.init();
    std::fs::write(guest.root.join("file"), "content").unwrap();
    let root = guest.root.clone();
    guest.driver.assert_alive(&root);
    guest.tmpfile();
}
