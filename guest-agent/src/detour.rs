//! A while in a container's namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::{boot, sys};

/// The agent (or, with a kind of which a process cannot change its own, its children) is in another namespace until this is dropped.
/// Nothing is awaited meanwhile: the agent has one thread, and all its tasks would be there.
pub struct Detour {
    home: File,
    flag: i32,
}

impl Detour {
    /// Remembers the way back; the caller leaves.
    pub fn begin(flag: i32, name: &str) -> io::Result<Detour> {
        let home = File::open(format!("/proc/self/ns/{name}"))?;
        Ok(Detour { home, flag })
    }

    /// Leaves for a namespace that exists.
    pub fn join(namespace: impl AsFd, flag: i32, name: &str) -> io::Result<Detour> {
        let detour = Detour::begin(flag, name)?;
        sys::setns(namespace.as_fd(), flag)?;
        Ok(detour)
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        if let Err(error) = sys::setns(self.home.as_fd(), self.flag) {
            log::error!("the agent cannot return from a container's namespace: {error}");
            boot::power_off();
        }
    }
}
