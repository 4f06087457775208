//! Id-mapped bind mounts. The kernel lets only the owner of the file system map its ids, and only before the mount is seen
//! anywhere: so the agent makes a detached copy of the source, and the container's process puts it in its place.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Error;
use crate::spec::{MountPlan, Plan};
use crate::sys::{self, MountAttr};

const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// Texts of uid_map and gid_map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// User ids.
    pub uid: String,
    /// Group ids.
    pub gid: String,
}

/// For each mount of the plan a copy of its source with other ids, where it asks for that.
pub fn prepare(plan: &Plan) -> Result<Vec<Option<OwnedFd>>, Error> {
    let one = |(index, mount): (usize, &MountPlan)| {
        let Some(maps) = &mount.id_maps else { return Ok(None) };
        copy(mount, maps).map(Some).map_err(|error| Error::IdMap {
            index,
            source_path: mount.source.clone(),
            target: mount.destination.clone(),
            error,
        })
    };
    plan.mounts.iter().enumerate().map(one).collect()
}

fn copy(mount: &MountPlan, maps: &IdMaps) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if mount.options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, &mount.source, flags)?;
    let namespace = user_namespace(maps)?;
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: std::os::fd::AsRawFd::as_raw_fd(&namespace) as u64,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree.as_fd(), mount.options.id_map == Some(true), &attr)?;
    Ok(tree)
}

/// A user namespace that no process is in: it is named after one that ends at once. The reaper takes that away.
fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    match sys::clone3(libc::CLONE_NEWUSER as u64, None)? {
        sys::Cloned::Child => {
            drop(write);
            let _ = rustix::io::read(&read, &mut [0; 1]);
            sys::exit(0)
        }
        sys::Cloned::Parent(pid) => {
            let proc = |file: &str| format!("/proc/{}/{file}", pid.as_raw_pid());
            fs::write(proc("uid_map"), &maps.uid)?;
            fs::write(proc("gid_map"), &maps.gid)?;
            Ok(File::open(proc("ns/user"))?.into())
        }
    }
}
