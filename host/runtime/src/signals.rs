//! Signals that the command gets and passes on to the container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use crate::sys;

/// Signals that would end the start of a container, or that a container gets.
const FORWARDED: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGWINCH,
    libc::SIGIO,
    libc::SIGPWR,
];

/// The signal asks this command to end (and is otherwise only passed on).
pub fn is_request_to_end(signal: i32) -> bool {
    matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM)
}

/// Signals held back from their usual effect. They can be read as soon as somebody listens.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Holds the signals back in this thread and in all that it starts. Must come before the first thread.
    /// What the caller had set to be ignored (nohup) stays ignored.
    pub fn hold() -> io::Result<Self> {
        let ignored = |signal: i32| is_request_to_end(signal) && sys::is_ignored(signal);
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        let held: Vec<i32> = FORWARDED.iter().copied().chain(real_time).filter(|signal| !ignored(*signal)).collect();
        sys::block_signals(&held)?;
        Ok(Self { fd: sys::signal_fd(&held)? })
    }

    /// Calls `handle` with each signal, on a thread that lives as long as the process.
    pub fn listen(self, handle: impl Fn(i32) + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("signals".to_string()).spawn(move || {
            while let Ok(signal) = read(&self.fd) {
                handle(signal);
            }
        })?;
        Ok(())
    }
}

fn read(fd: &OwnedFd) -> io::Result<i32> {
    loop {
        match sys::read_signal(fd.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
