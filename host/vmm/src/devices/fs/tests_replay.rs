//! Requests that are only said to be done.

use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use virtiofsd::fuse::{
    AttrOut, EntryOut, FsOptions, GetattrIn, InitOut, MkdirIn, MknodIn, Opcode, OpenIn, OpenOut, ReleaseIn, Rename2In,
    SetattrIn, SetattrValid,
};
use vm_memory::ByteValued;

use super::replay::FIRST_GHOST;
use super::tests_driver::Driver;
use super::tests_guest::*;

const TOUCH: u32 = 90;
const MAKE: u32 = 91;
const DROP: u32 = 92;
const FILE: u32 = 93;
const DIRECTORY: u32 = 94;
const NAME: &[u8] = b"file\0";

fn as_user(guest: &mut Guest, uid: u32, opcode: Opcode, node: u64, body: &[&[u8]]) -> Answer {
    guest.driver.request_as(uid, opcode as u32, node, &body.concat())
}

fn entry(answer: Answer) -> EntryOut {
    object(&done(answer))
}

#[test]
fn nothing_is_removed_or_renamed() {
    let mut guest = Guest::new();
    for (uid, remove, kind) in [(FILE, Opcode::Unlink, libc::S_IFREG), (DIRECTORY, Opcode::Rmdir, libc::S_IFDIR)] {
        let (one, two) = (
            entry(as_user(&mut guest, uid, Opcode::Lookup, ROOT, &[NAME])),
            entry(as_user(&mut guest, uid, Opcode::Lookup, ROOT, &[NAME])),
        );
        assert!(one.nodeid >= FIRST_GHOST && one.nodeid != two.nodeid);
        assert_eq!((one.entry_valid, one.entry_valid_nsec, one.attr_valid), (0, 0, 0));
        assert_eq!(one.attr.mode & libc::S_IFMT, kind);
        let attr: AttrOut =
            object(&done(as_user(&mut guest, 0, Opcode::Getattr, one.nodeid, &[GetattrIn::default().as_slice()])));
        assert_eq!(attr.attr.mode, one.attr.mode);
        assert_eq!(done(as_user(&mut guest, uid, remove, ROOT, &[NAME])), b"");
        let rename = Rename2In { newdir: ROOT, ..Default::default() };
        assert_eq!(done(as_user(&mut guest, uid, Opcode::Rename2, ROOT, &[rename.as_slice(), NAME, b"other\0"])), b"");
        guest.forget(one.nodeid);
        assert_eq!(error(as_user(&mut guest, 0, Opcode::Lookup, one.nodeid, &[NAME])), Errno::STALE);
    }
    assert!(guest.root.join("file").exists() && !guest.root.join("other").exists());
}

#[test]
fn nothing_is_made() {
    let mut guest = Guest::new();
    for uid in [MAKE, DROP] {
        assert_eq!(error(as_user(&mut guest, uid, Opcode::Lookup, ROOT, &[NAME])), Errno::NOENT);
    }
    let node = MknodIn { mode: libc::S_IFREG | 0o600, ..Default::default() };
    let made = entry(as_user(&mut guest, MAKE, Opcode::Mknod, ROOT, &[node.as_slice(), b"new\0"]));
    assert_eq!(made.attr.mode, libc::S_IFREG | 0o600);
    let directory = MkdirIn { mode: 0o700, umask: 0 };
    let made = entry(as_user(&mut guest, MAKE, Opcode::Mkdir, ROOT, &[directory.as_slice(), b"new\0"]));
    assert_eq!(made.attr.mode, libc::S_IFDIR | 0o700);
    for uid in [DROP, FILE, DIRECTORY] {
        let answer = as_user(&mut guest, uid, Opcode::Mkdir, ROOT, &[directory.as_slice(), b"new\0"]);
        assert_eq!(error(answer), Errno::EXIST);
    }
    assert_eq!(error(as_user(&mut guest, MAKE, Opcode::Unlink, ROOT, &[NAME])), Errno::EXIST);
    assert_eq!(std::fs::read_dir(&guest.root).unwrap().count(), 1, "only `file`");
}

#[test]
fn nothing_is_changed_or_opened() {
    let mut guest = Guest::new();
    let found = entry(as_user(&mut guest, TOUCH, Opcode::Lookup, ROOT, &[NAME]));
    assert!(found.nodeid < FIRST_GHOST);
    let before = std::fs::metadata(guest.root.join("file")).unwrap();
    let change = SetattrIn {
        valid: (SetattrValid::MTIME | SetattrValid::ATIME | SetattrValid::MODE | SetattrValid::SIZE).bits(),
        mtime: 12,
        mtimensec: 34,
        ..Default::default()
    };
    let out: AttrOut = object(&done(as_user(&mut guest, TOUCH, Opcode::Setattr, found.nodeid, &[change.as_slice()])));
    assert_eq!((out.attr.mtime, out.attr.mtimensec, out.attr_valid), (12, 34, 0));
    assert_eq!((out.attr.ino, out.attr.size), (before.ino(), before.len()));
    let open = OpenIn { flags: (libc::O_WRONLY | libc::O_TRUNC) as u32, open_flags: 0 };
    let descriptors = guest.descriptors();
    let opened: OpenOut = object(&done(as_user(&mut guest, TOUCH, Opcode::Open, found.nodeid, &[open.as_slice()])));
    assert!(opened.fh >= FIRST_GHOST);
    assert_eq!(guest.descriptors(), descriptors);
    let release = ReleaseIn { fh: opened.fh, ..Default::default() };
    assert_eq!(done(as_user(&mut guest, 0, Opcode::Release, found.nodeid, &[release.as_slice()])), b"");
    let after = std::fs::metadata(guest.root.join("file")).unwrap();
    assert_eq!((after.mtime(), after.len(), after.mode()), (before.mtime(), before.len(), before.mode()));
}

#[test]
fn the_guest_says_whose_requests_are() {
    let dir = super::tests_driver::shared_directory();
    let mut driver = Driver::new(dir.path());
    let mut init = [0u8; 64];
    init[..8].copy_from_slice(&[7, 0, 0, 0, 41, 0, 0, 0]);
    let able = FsOptions::INIT_EXT | FsOptions::ALLOW_IDMAP | FsOptions::CREATE_SUPP_GROUP;
    init[12..20].copy_from_slice(&able.bits().to_le_bytes());
    let out: InitOut = object(&done(driver.request(Opcode::Init as u32, 0, &init)));
    let flags = FsOptions::from_bits_truncate(u64::from(out.flags2) << 32 | u64::from(out.flags));
    assert!(flags.contains(FsOptions::CREATE_SUPP_GROUP) && !flags.contains(FsOptions::ALLOW_IDMAP));
}
