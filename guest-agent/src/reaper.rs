//! Reaps every child of PID 1: those the agent made, for which somebody waits, and orphans, for which nobody does.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::rpc::now_ns;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255, and 128 + signal when a signal ended it.
    pub status: u32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// When it was reaped, CLOCK_BOOTTIME.
    pub at_ns: u64,
}

/// The children somebody waits for.
#[derive(Default)]
pub struct Reaper {
    waiting: Mutex<HashMap<Pid, oneshot::Sender<Exit>>>,
}

impl Reaper {
    /// To be called right after the child was made, before anything is awaited: then it cannot have been reaped yet.
    pub fn watch(&self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, sender);
        receiver
    }

    /// Runs for ever.
    pub async fn run(&self) -> io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            self.reap();
            signals.recv().await;
        }
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(exit) = exit_of(status) else { continue };
            let waiter = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
            if let Some(waiter) = waiter {
                let _ = waiter.send(exit);
            }
        }
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    let at_ns = now_ns();
    if let Some(code) = status.exit_status() {
        return Some(Exit { status: code as u32, signal: 0, at_ns });
    }
    let signal = status.terminating_signal()? as u32;
    Some(Exit { status: 128 + signal, signal, at_ns })
}
