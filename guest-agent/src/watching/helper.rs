//! The process that follows what a container watches and does again what the host has done.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use agent_protocol::watch::{Event, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CapabilitiesSecureBits;
use tokio_vsock::VsockStream;

use super::look::Pace;
use super::replay::Replay;
use super::watches::Watches;
use crate::container::Container;
use crate::{klog, sys};

/// Events that are done together: more wait in the stream.
const MOST_EVENTS: usize = 256;

/// Until the host goes away, or the agent ends this process.
pub fn run(stream: &VsockStream, container: &Container, shares: Vec<String>) -> ! {
    let kept: Vec<_> = klog::descriptor().into_iter().chain([stream.as_raw_fd()]).collect();
    sys::close_all_but(&kept);
    sys::reset_signals();
    sys::ignore_sigpipe();
    let result = begin(stream).and_then(|stream| follow(stream, container, shares));
    if let Err(error) = &result
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        sys::exit(1);
    }
    sys::exit(0)
}

/// What was an event loop's is to wait again.
fn begin(stream: &VsockStream) -> io::Result<Stream> {
    let stream = stream.as_fd().try_clone_to_owned()?;
    rustix::io::ioctl_fionbio(&stream, false)?;
    // Capabilities stay as they are when the user changes, which is only a mark for the file server.
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    Ok(Stream(std::fs::File::from(stream)))
}

fn follow(mut stream: Stream, container: &Container, shares: Vec<String>) -> io::Result<()> {
    let mut watches = Watches::new(container.pid(), shares);
    let mut pace = Pace::default();
    loop {
        if let Some(seen) = pace.look(container) {
            for message in watches.update(&seen) {
                stream.0.write_all(&message.to_bytes())?;
            }
        }
        let next = Instant::now() + pace.pause();
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            let events = stream.events(left)?;
            Replay::new(&watches).all(&events);
        }
    }
}

/// The host's.
struct Stream(std::fs::File);

impl Stream {
    /// What has happened, once something has or this time is over; of repeated events the first.
    fn events(&mut self, time: Duration) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut wait = time;
        while events.len() < MOST_EVENTS && self.is_ready(wait)? {
            let Message::Event(event) = Message::read(&mut self.0)? else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if events.last() != Some(&event) {
                events.push(event);
            }
            wait = Duration::ZERO;
        }
        Ok(events)
    }

    fn is_ready(&self, time: Duration) -> io::Result<bool> {
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
