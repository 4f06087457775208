//! What the monitor tells the command that started it.

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use vmm::console_log::ConsoleLog;
use vmm::vm::{Observer, VmExit};

use crate::control::MonitorEvent;
use crate::sys::now_ns;

/// Console lines that a report of the end carries.
const CONSOLE_LINES: usize = 40;

/// Sends events, from any thread, and keeps the guest's console for the last one.
pub struct Reporter {
    control: Mutex<UnixStream>,
    console: ConsoleLog,
}

impl Reporter {
    /// Reports on `control`; with `echo`, the guest's console also goes to standard error.
    pub fn new(control: UnixStream, echo: bool) -> Self {
        Reporter { control: Mutex::new(control), console: ConsoleLog::new(echo) }
    }

    /// The guest's console.
    pub fn console(&self) -> &ConsoleLog {
        &self.console
    }

    /// Its last lines.
    pub fn console_lines(&self) -> Vec<String> {
        self.console.last_lines(CONSOLE_LINES)
    }

    /// The socket's descriptor.
    pub fn descriptor(&self) -> Option<RawFd> {
        Some(self.control.lock().unwrap_or_else(PoisonError::into_inner).as_raw_fd())
    }

    /// Sends one event as a line. Fails silently: when the other end is closed, the monitor is about to end.
    pub fn send(&self, event: &MonitorEvent) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.control.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
    }
}

impl Observer for Reporter {
    fn entering(&self) {
        self.send(&MonitorEvent::KernelEntered { at_ns: now_ns() });
    }

    fn exited(&self, exit: VmExit) {
        self.send(&match exit {
            VmExit::Reset => MonitorEvent::Stopped { panic: self.console.shows_panic(), console: self.console_lines() },
            VmExit::Failed(message) => MonitorEvent::Failed { message },
        });
        // Wakes the main thread, which ends the process.
        let _ = self.control.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }
}
