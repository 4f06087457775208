//! One process of a container that the agent has made: the first, or an exec'd one.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::{oneshot, watch};

use super::{Error, step};
use crate::reaper::Exit;
use crate::stdio::Master;

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Of the process.
    pub exit: Exit,
    /// How many processes of the container the kernel had killed by then for want of memory.
    pub oom_kills: u64,
}

/// A process that is, or was.
pub struct Process {
    pid: Pid,
    /// Of its terminal.
    master: Mutex<Option<Master>>,
    /// Set when the process has been reaped; from then on its number means nothing.
    exited: watch::Receiver<Option<Exit>>,
    /// Set when its output has been sent as well.
    ended: watch::Receiver<Option<End>>,
}

/// By which the supervisor tells what became of the process.
pub struct Report {
    exited: watch::Sender<Option<Exit>>,
    ended: watch::Sender<Option<End>>,
}

impl Report {
    /// Waits until the process is reaped, and lets everybody know.
    pub async fn reaped(&self, exit: oneshot::Receiver<Exit>) -> Option<Exit> {
        let exit = exit.await.ok()?;
        let _ = self.exited.send(Some(exit));
        Some(exit)
    }

    /// The last word.
    pub fn ended(self, end: End) {
        let _ = self.ended.send(Some(end));
    }
}

impl Process {
    /// A process that was just made.
    pub fn new(pid: Pid) -> (Process, Report) {
        let (exited_sender, exited) = watch::channel(None);
        let (ended_sender, ended) = watch::channel(None);
        let process = Process { pid, master: Mutex::new(None), exited, ended };
        (process, Report { exited: exited_sender, ended: ended_sender })
    }

    /// In the guest's pid namespace. Means another process, or none, once this one has exited.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has been reaped.
    pub fn has_exited(&self) -> bool {
        self.exited.borrow().is_some()
    }

    /// Tells when it has been reaped.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exited.clone()
    }

    /// Waits for the end, however often it is asked.
    pub async fn wait(&self) -> Result<End, Error> {
        let mut ended = self.ended.clone();
        let end = *ended.wait_for(Option::is_some).await.map_err(|_| Error::NotRunning)?;
        end.ok_or(Error::NotRunning)
    }

    /// Sends a signal; false when there is no process any more.
    pub fn signal(&self, signal: Signal) -> Result<bool, Error> {
        if self.has_exited() {
            return Ok(false);
        }
        let sent = kill_process(self.pid, signal);
        sent.map_err(step(format!("send signal {}", signal.as_raw()))).map(|()| true)
    }

    /// The agent's side of its terminal, from when there is one until the end.
    pub fn set_master(&self, master: Option<Master>) {
        *self.master.lock().unwrap_or_else(PoisonError::into_inner) = master;
    }

    /// Sets the terminal's size.
    pub fn resize(&self, size: Winsize) -> Result<(), Error> {
        let master = self.master.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tcsetwinsize(master.ok_or(Error::NoTerminal)?.get_ref(), size).map_err(step("resize the terminal"))
    }
}
