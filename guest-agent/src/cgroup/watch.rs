//! Files of a cgroup that tell when they change: poll(2) says so for those that the kernel calls events.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longer ones do not exist.
const MOST: usize = 4096;

/// `cgroup.events`, `memory.events` or the like.
pub struct EventFile(AsyncFd<OwnedFd>);

impl EventFile {
    /// Opens the file.
    pub fn open(path: &Path) -> io::Result<EventFile> {
        let fd = OwnedFd::from(File::open(path)?);
        Ok(EventFile(crate::sys::async_fd_with(fd, Interest::PRIORITY)?))
    }

    /// What it says now. Later changes end [`EventFile::changed`].
    pub fn read(&mut self) -> io::Result<String> {
        let mut text = vec![0; MOST];
        let length = rustix::io::pread(self.0.get_ref(), &mut text, 0)?;
        text.truncate(length);
        String::from_utf8(text).map_err(io::Error::other)
    }

    /// Returns when it says something new; sometimes without.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}
