//! Tells the guest what the host changes in shared directories, as far as programs of the container watch them (docs/watching.md).
//!
//! One stream to the agent ([`WATCH_PORT`]), one group of fanotify(7), which is made when something is watched for the first time. Events
//! that the monitor causes are the guest's own doing, of which its kernel has told its watchers: fanotify says whose an event is.

mod events;
mod marks;
mod sys;

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::WATCH_PORT;
use agent_protocol::watch::{Event, Greeting, MAX_SHARES, Message};

use crate::control::Share;
use crate::guest::{REACH_TIMEOUT, connect};
use marks::Marks;

/// The root comes first; nobody but the guest changes it.
const MOUNTS: usize = 1;
/// Events that come within this time are read together: the kernel merges those that are alike meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the container has to itself before the guest is asked what is watched.
const LATER: Duration = Duration::from_millis(300);
/// Bytes of events read at once.
const BUFFER: usize = 64 << 10;

/// What is to be watched of a container.
#[derive(Debug)]
pub struct Watching {
    /// The way to the guest.
    pub socket: PathBuf,
    /// The container's ID.
    pub id: String,
    /// The process that changes files for the guest.
    pub monitor: i32,
    /// What can be watched.
    pub shares: Vec<Share>,
}

/// The shares that somebody else may change while the container runs: its mounts from the host, if there is a directory among them.
/// (Engines mount a file or two of their own into every container.)
pub fn watchable(shares: &[Share]) -> Vec<Share> {
    let mounts = shares.iter().skip(MOUNTS).filter(|share| share.overlay.is_none());
    let mounts: Vec<Share> = mounts.take(MAX_SHARES).cloned().collect();
    if mounts.iter().any(|share| share.directory) { mounts } else { Vec::new() }
}

/// Begins, on a thread of its own, which ends with the guest. Without it the container works, and sees no changes.
pub fn start(watching: Watching) {
    if watching.shares.is_empty() {
        return;
    }
    let follow = move || {
        thread::sleep(LATER);
        if let Err(error) = follow(&watching) {
            log::debug!("changes of shared files are not watched: {error}");
        }
    };
    if let Err(error) = thread::Builder::new().name("watching".to_string()).spawn(follow) {
        log::warn!("changes of shared files are not watched: {error}");
    }
}

/// What both threads have: marks by what the guest calls them.
type Shared = Arc<Mutex<Marks>>;

fn locked(marks: &Shared) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow(watching: &Watching) -> io::Result<()> {
    let mut stream = connect(&watching.socket, WATCH_PORT, REACH_TIMEOUT).map_err(io::Error::other)?;
    let shares = watching.shares.iter().map(|share| share.name.clone()).collect();
    stream.write_all(&Greeting { id: watching.id.clone(), shares }.to_bytes())?;
    let mut marks: Option<Shared> = None;
    let result = obey(watching, &mut stream, &mut marks);
    if let Some(marks) = marks {
        locked(&marks).clear();
    }
    // The other thread has it too.
    let _ = stream.shutdown(Shutdown::Both);
    result
}

/// Does what the guest asks until it ends. What it sends is checked here and in [`Marks`].
fn obey(watching: &Watching, stream: &mut UnixStream, marks: &mut Option<Shared>) -> io::Result<()> {
    let mut refused = false;
    loop {
        let message = match Message::read(stream) {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        match message {
            Message::Watch { watch, share, mask, path } => {
                let marks = match marks {
                    Some(marks) => marks,
                    None => match report(watching, stream) {
                        Ok(new) => marks.insert(new),
                        Err(error) => {
                            log::warn!("changes of shared files are not watched (fanotify): {error}");
                            return Ok(());
                        }
                    },
                };
                let added = match watching.shares.get(usize::from(share)) {
                    Some(share) => locked(marks).add(watch, share, &path, mask),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
                // Once: a guest may ask without end. What was removed meanwhile is no defect.
                if let Err(error) = added
                    && error.kind() != io::ErrorKind::NotFound
                    && !std::mem::replace(&mut refused, true)
                {
                    log::warn!("something that the container watches is not watched on the host: {error}");
                }
            }
            Message::Unwatch { watch } => marks.iter().for_each(|marks| locked(marks).remove(watch)),
            Message::Event(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Makes the group, and has a thread pass on what it reports.
fn report(watching: &Watching, stream: &UnixStream) -> io::Result<Shared> {
    let group = Arc::new(sys::Group::new()?);
    let marks = Arc::new(Mutex::new(Marks::new(group.clone())));
    let (shared, monitor, mut stream) = (marks.clone(), watching.monitor, stream.try_clone()?);
    let pass_on = move || {
        // The group is closed with the process, at the latest.
        if let Err(error) = pass_on(&group, &shared, monitor, &mut stream) {
            log::debug!("changes of shared files are not passed on any more: {error}");
        }
    };
    thread::Builder::new().name("changes".to_string()).spawn(pass_on)?;
    Ok(marks)
}

fn pass_on(group: &sys::Group, marks: &Shared, monitor: i32, stream: &mut UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut lost = false;
    loop {
        let length = group.read(&mut buffer)?;
        let read = buffer.get(..length).unwrap_or_default();
        let mut last: Option<Event> = None;
        for change in events::parse(read) {
            if change.overflow && !std::mem::replace(&mut lost, true) {
                log::warn!("too many changes of shared files at once: some were not passed on to the container");
            }
            if change.pid == monitor {
                continue;
            }
            let Some(event) = locked(marks).event(&change) else { continue };
            if last.as_ref() != Some(&event) {
                stream.write_all(&Message::Event(event.clone()).to_bytes())?;
            }
            last = Some(event);
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests;
