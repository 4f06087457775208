//! What a guest's kernel sends for files without a name.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use virtiofsd::fuse::{
    Attr, AttrOut, CreateIn, EntryOut, ForgetIn, GetattrIn, InHeader, LinkIn, Opcode, OpenOut, ReadIn, ReleaseIn,
    WriteIn,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::tests_driver::{Driver, REQUEST, shared_directory};
use super::tmpfile::FIRST_NODE;

pub const ROOT: u64 = 1;
pub const RDWR: u32 = (libc::O_TMPFILE | libc::O_RDWR) as u32;
/// The user that most tests are.
pub const USER: u32 = 1234;

pub type Answer = (i32, Vec<u8>);

/// A guest that makes files without a name.
pub struct Guest {
    pub driver: Driver,
    pub root: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

pub fn object<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut object = T::default();
    object.as_mut_slice().copy_from_slice(&bytes[..size_of::<T>()]);
    object
}

pub fn done((error, body): Answer) -> Vec<u8> {
    assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(-error));
    body
}

pub fn error((error, body): Answer) -> Errno {
    assert!(body.is_empty());
    Errno::from_raw_os_error(-error)
}

impl Guest {
    /// A directory that everybody can write to.
    pub fn new() -> Self {
        let dir = shared_directory();
        rustix::fs::chmod(dir.path(), Mode::from_bits_retain(0o777)).unwrap();
        let root = dir.path().to_owned();
        Guest { _dir: Some(dir), ..Self::at(&root) }
    }

    pub fn at(root: &Path) -> Self {
        let mut driver = Driver::new(root);
        driver.init();
        Guest { driver, root: root.to_owned(), _dir: None }
    }

    pub fn call<T: ByteValued>(&mut self, opcode: Opcode, node: u64, body: T, rest: &[u8]) -> Answer {
        self.driver.request(opcode as u32, node, &[body.as_slice(), rest].concat())
    }

    pub fn tmpfile_as(&mut self, id: u32, parent: u64, flags: u32, mode: u32) -> Answer {
        let create = CreateIn { flags, mode: libc::S_IFREG | mode, umask: 0o022, open_flags: 0 };
        // The guest's kernel calls the name "/".
        self.driver.request_as(id, Opcode::TmpFile as u32, parent, &[create.as_slice(), b"/\0"].concat())
    }

    /// A new file of [`USER`]'s: node, handle, attributes.
    pub fn tmpfile(&mut self) -> (u64, u64, Attr) {
        let answer = self.tmpfile_as(USER, ROOT, RDWR, 0o640);
        opened(&done(answer))
    }

    pub fn write(&mut self, (node, fh): (u64, u64), offset: u64, flags: i32, data: &[u8]) -> Answer {
        let write = WriteIn { fh, offset, size: data.len() as u32, flags: flags as u32, ..Default::default() };
        self.call(Opcode::Write, node, write, data)
    }

    pub fn read(&mut self, (node, fh): (u64, u64), offset: u64, size: u32) -> Answer {
        self.call(Opcode::Read, node, ReadIn { fh, offset, size, ..Default::default() }, b"")
    }

    pub fn attr(&mut self, node: u64) -> AttrOut {
        object(&done(self.call(Opcode::Getattr, node, GetattrIn::default(), b"")))
    }

    pub fn link(&mut self, node: u64, parent: u64, name: &str) -> Answer {
        self.call(Opcode::Link, parent, LinkIn { oldnodeid: node }, &[name.as_bytes(), b"\0"].concat())
    }

    pub fn release(&mut self, (node, fh): (u64, u64)) -> Answer {
        self.call(Opcode::Release, node, ReleaseIn { fh, ..Default::default() }, b"")
    }

    /// Sends a request that has no answer.
    pub fn tell(&mut self, opcode: Opcode, node: u64, body: &[u8]) {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode: opcode as u32, nodeid: node, ..Default::default() };
        self.driver.memory.write_obj(header, GuestAddress(REQUEST)).unwrap();
        self.driver.memory.write_slice(body, GuestAddress(REQUEST + 40)).unwrap();
        assert_eq!(self.driver.send(0, &[(REQUEST, len, 0, 0)]), Some((0, 0)));
    }

    pub fn forget(&mut self, node: u64) {
        self.tell(Opcode::Forget, node, ForgetIn { nlookup: 1 }.as_slice());
    }

    /// How many descriptors of this process are in the shared directory, which is this test's own.
    pub fn descriptors(&self) -> usize {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| std::fs::read_link(fd.unwrap().path()));
        fds.filter(|target| target.as_ref().is_ok_and(|target| target.starts_with(&self.root))).count()
    }
}

pub fn opened(body: &[u8]) -> (u64, u64, Attr) {
    assert_eq!(body.len(), size_of::<EntryOut>() + size_of::<OpenOut>());
    let (entry, open) = (object::<EntryOut>(body), object::<OpenOut>(&body[size_of::<EntryOut>()..]));
    assert!(entry.nodeid >= FIRST_NODE);
    (entry.nodeid, open.fh, entry.attr)
}

pub fn u32_of<T: virtiofsd::soft_idmap::Id<Inner = u32>>(id: T) -> u32 {
    id.into_inner()
}
