//! A mount's options, as mount(8) spells them.

use std::path::PathBuf;

use agent_protocol::BELOW_OPTION;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::sys::MountAttr;

/// An option that means nothing, or does not work here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A C string cannot hold it.
    #[error("options: {0:?} contains a zero byte")]
    ZeroByte(String),
}

/// A mount's options, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// For mount(2) of a file system.
    pub flags: MountFlags,
    /// The same for an existing mount (a bind): only what was asked for is set and cleared.
    pub attr: MountAttr,
    /// For the mount and all below it.
    pub recursive_attr: MountAttr,
    /// In order.
    pub propagation: Vec<MountPropagationFlags>,
    /// `bind` or `rbind` was given.
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    /// Change what is mounted there already.
    pub remount: bool,
    /// Map the ids of the files: with the mounts below, or without.
    pub id_map: Option<bool>,
    /// Paths in a bind mount at which the host has mounts of its own, which the mount's own flags do not reach.
    pub below: Vec<PathBuf>,
    /// Fill a tmpfs with what it hides.
    pub copy_up: bool,
    /// All the rest, for the file system.
    pub data: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            flags: MountFlags::empty(),
            attr: MountAttr::default(),
            recursive_attr: MountAttr::default(),
            propagation: Vec::new(),
            bind: false,
            recursive: false,
            remount: false,
            id_map: None,
            below: Vec::new(),
            copy_up: false,
            data: Vec::new(),
        }
    }
}

const RDONLY: u64 = 0x01;
const NOSUID: u64 = 0x02;
const NODEV: u64 = 0x04;
const NOEXEC: u64 = 0x08;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// One option that is a flag: what mount(2) calls it, and what mount_setattr(2) sets and clears.
struct Flag {
    on: MountFlags,
    off: MountFlags,
    set: u64,
    clear: u64,
}

fn flag(name: &str) -> Option<Flag> {
    let none = MountFlags::empty();
    let f = |on, off, set, clear| Some(Flag { on, off, set, clear });
    // An absent `relatime` bit is the kernel's default, and so is relatime itself.
    match name {
        "ro" => f(MountFlags::RDONLY, none, RDONLY, 0),
        "rw" => f(none, MountFlags::RDONLY, 0, RDONLY),
        "nosuid" => f(MountFlags::NOSUID, none, NOSUID, 0),
        "suid" => f(none, MountFlags::NOSUID, 0, NOSUID),
        "nodev" => f(MountFlags::NODEV, none, NODEV, 0),
        "dev" => f(none, MountFlags::NODEV, 0, NODEV),
        "noexec" => f(MountFlags::NOEXEC, none, NOEXEC, 0),
        "exec" => f(none, MountFlags::NOEXEC, 0, NOEXEC),
        "noatime" => f(MountFlags::NOATIME, none, NOATIME, ATIME),
        "atime" => f(none, MountFlags::NOATIME, 0, ATIME),
        "relatime" => f(MountFlags::RELATIME, none, 0, ATIME),
        "norelatime" => f(none, MountFlags::RELATIME, 0, ATIME),
        "strictatime" => f(MountFlags::STRICTATIME, none, STRICTATIME, ATIME),
        "nostrictatime" => f(none, MountFlags::STRICTATIME, 0, ATIME),
        "nodiratime" => f(MountFlags::NODIRATIME, none, NODIRATIME, 0),
        "diratime" => f(none, MountFlags::NODIRATIME, 0, NODIRATIME),
        "nosymfollow" => f(MountFlags::NOSYMFOLLOW, none, NOSYMFOLLOW, 0),
        "symfollow" => f(none, MountFlags::NOSYMFOLLOW, 0, NOSYMFOLLOW),
        _ => None,
    }
}

const POSIXACL: MountFlags = MountFlags::from_bits_retain(1 << 16);
const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);

/// Flags of the file system itself, which an existing mount does not have.
fn fs_flag(name: &str) -> Option<(MountFlags, bool)> {
    Some(match name {
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "acl" => (POSIXACL, true),
        "noacl" => (POSIXACL, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        "iversion" => (I_VERSION, true),
        "noiversion" => (I_VERSION, false),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<MountPropagationFlags> {
    use MountPropagationFlags as P;
    Some(match name {
        "private" => P::PRIVATE,
        "rprivate" => P::PRIVATE | P::REC,
        "shared" => P::SHARED,
        "rshared" => P::SHARED | P::REC,
        "slave" => P::DOWNSTREAM,
        "rslave" => P::DOWNSTREAM | P::REC,
        "unbindable" => P::UNBINDABLE,
        "runbindable" => P::UNBINDABLE | P::REC,
        _ => return None,
    })
}

/// linux.rootfsPropagation.
pub fn root_propagation(name: &str) -> Option<MountPropagationFlags> {
    propagation(name)
}

fn change(attr: &mut MountAttr, flag: &Flag) {
    attr.set = attr.set & !flag.clear | flag.set;
    attr.clear = attr.clear & !flag.set | flag.clear;
}

/// Takes the list apart; of options that contradict each other the later one counts.
pub fn parse(list: &[String]) -> Result<MountOptions, Error> {
    let mut options = MountOptions::default();
    for name in list {
        if let Some(flag) = flag(name) {
            options.flags = options.flags.difference(flag.off).union(flag.on);
            change(&mut options.attr, &flag);
        } else if let Some((bit, on)) = fs_flag(name) {
            options.flags.set(bit, on);
        } else if let Some(flags) = propagation(name) {
            options.propagation.push(flags);
        } else if let Some(flag) = name.strip_prefix('r').and_then(flag) {
            change(&mut options.recursive_attr, &flag);
        } else {
            other(name, &mut options)?;
        }
    }
    Ok(options)
}

fn other(name: &str, options: &mut MountOptions) -> Result<(), Error> {
    match name {
        "bind" => options.bind = true,
        "rbind" => (options.bind, options.recursive) = (true, true),
        "tmpcopyup" => options.copy_up = true,
        "defaults" | "" => {}
        "remount" => options.remount = true,
        "idmap" => options.id_map = Some(false),
        "ridmap" => options.id_map = Some(true),
        _ if name.contains('\0') => return Err(Error::ZeroByte(name.to_owned())),
        _ => match name.strip_prefix(BELOW_OPTION) {
            Some(path) => options.below.push(PathBuf::from(path)),
            None => options.data.push(name.to_owned()),
        },
    }
    Ok(())
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
