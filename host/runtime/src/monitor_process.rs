//! The monitor process, seen from the command that starts it: spawning, its reports, its end.

mod keeper;

use std::ffi::{CStr, CString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::Serialize;

use crate::control::{MonitorConfig, MonitorEvent, MonitorOrder, fds};
use crate::descriptors;
use crate::error::{Plain, shown};
use crate::guest::Guest;
use crate::sys::{self, Spawn, Streams};

pub use keeper::clear;

/// How long the end of a process whose connections have ended is waited for.
const GONE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long it may take to plug a device in: a guest can keep the device's window busy for a moment.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// A line of the monitor's reports; console lines are the longest part.
const LINE_LIMIT: u64 = 1 << 20;

/// What the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A micro-VM's.
    Monitor,
    /// What a container has in its place whose micro-VM is another's.
    Keeper,
}

impl Role {
    fn word(self) -> &'static CStr {
        match self {
            Self::Monitor => c"monitor",
            Self::Keeper => c"keeper",
        }
    }

    /// How long it may take to end once it was told to, or has said that it will.
    fn patience(self) -> Duration {
        match self {
            Self::Monitor => Duration::from_secs(2),
            // It has the guest end the container first.
            Self::Keeper => Duration::from_secs(12),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.word().to_string_lossy())
    }
}

/// Why there is no running micro-VM.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The process could not be started or spoken to.
    #[error("cannot start the {role} of container {id:?}: {}", Plain(.source))]
    Start {
        /// What was started.
        role: Role,
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// The monitor's own sentence.
    #[error("{0}")]
    Failed(String),
    /// The guest's kernel panicked.
    #[error("the guest kernel of container {id:?} panicked{}", Console(.console))]
    Panic {
        /// The container.
        id: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// The agent, which is the guest's first process, ended.
    #[error("the agent in the guest of container {id:?} crashed{}", Console(.console))]
    Agent {
        /// The container.
        id: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// The guest ended by itself.
    #[error("the guest of container {id:?} ended unexpectedly{}", Console(.console))]
    Stopped {
        /// The container.
        id: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// The guest does not answer, and nobody knows why.
    #[error("{sentence}{}", Console(.console))]
    Unresponsive {
        /// What it did not do.
        sentence: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// It does not do what it is told.
    #[error("the {role} of container {id:?} does not answer: {}", Plain(.source))]
    Silent {
        /// Who.
        role: Role,
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// A signal killed the monitor.
    #[error("the {role} of container {id:?} was killed (signal {signal})")]
    Killed {
        /// Who.
        role: Role,
        /// The container.
        id: String,
        /// Which signal.
        signal: i32,
    },
    /// The monitor ended without a word.
    #[error("the {role} of container {id:?} ended (exit status {status})")]
    Exited {
        /// Who.
        role: Role,
        /// The container.
        id: String,
        /// Its exit status.
        status: i32,
    },
}

/// Shows a guest's console lines below a sentence.
struct Console<'a>(&'a [String]);

impl std::fmt::Display for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str("; the last lines of its console:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {}", shown(line)))
    }
}

/// What became of the monitor.
#[derive(Debug, Default)]
struct Fate {
    failed: Option<String>,
    stopped: Option<(bool, Vec<String>)>,
    end: Option<End>,
    /// To the order that was given last.
    answer: Option<MonitorEvent>,
    /// That one is not answered yet, and nobody waits for it any more; whether it was to plug something in.
    late: Option<bool>,
    /// A keeper's shares are there.
    attached: bool,
    /// Ends when the process does.
    tied: Option<Arc<Guest>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exited(i32),
    Killed(i32),
}

#[derive(Debug, Default)]
struct Shared {
    fate: Mutex<Fate>,
    changed: Condvar,
}

impl Shared {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Fate)) {
        change(&mut self.fate());
        self.changed.notify_all();
    }

    /// Waits for the answer to an order; nothing if the process ended instead, or took too long.
    fn wait_answer(&self) -> Option<MonitorEvent> {
        let waiting = |fate: &mut Fate| fate.end.is_none() && fate.answer.is_none();
        let waited = self.changed.wait_timeout_while(self.fate(), ORDER_TIMEOUT, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.answer.take()
    }

    /// Waits for the process's end; false if it did not come in time.
    fn wait_end(&self, timeout: Duration) -> bool {
        let running = |fate: &mut Fate| fate.end.is_none();
        let waited = self.changed.wait_timeout_while(self.fate(), timeout, running);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// What the monitor gets, beside the control socket.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// What is its stderr: never a stream of a container that outlives its command, which others wait for the end of.
    pub streams: Streams,
    /// Listening socket for streams to the guest.
    pub listener: BorrowedFd<'a>,
    /// Kernel image.
    pub kernel: BorrowedFd<'a>,
    /// Initramfs.
    pub initramfs: BorrowedFd<'a>,
    /// /dev/kvm.
    pub kvm: BorrowedFd<'a>,
    /// Block devices.
    pub disks: Vec<BorrowedFd<'a>>,
}

/// Ends a monitor process at once; can be given to another thread.
#[derive(Clone, Debug)]
pub struct Killer {
    process: Arc<OwnedFd>,
    role: Role,
    /// It ends when this is closed.
    control: Arc<UnixStream>,
}

impl Killer {
    /// Ends it. The process may have ended already.
    pub fn kill(&self) {
        match self.role {
            Role::Monitor => self.force(),
            // It has things to put in order.
            Role::Keeper => drop(self.control.shutdown(Shutdown::Both)),
        }
    }

    /// Sends SIGKILL.
    fn force(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

/// A running monitor. Dropping it kills and reaps the process.
#[derive(Debug)]
pub struct MonitorProcess {
    id: String,
    pid: i32,
    control: Arc<UnixStream>,
    killer: Killer,
    shared: Arc<Shared>,
    orders: Mutex<()>,
}

impl MonitorProcess {
    /// Starts the monitor of a container. `report` is called with each event, on another thread.
    pub fn spawn(
        id: &str,
        inputs: &Inputs<'_>,
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        let mut descriptors = vec![
            (inputs.listener, fds::VSOCK_LISTENER),
            (inputs.kernel, fds::KERNEL),
            (inputs.initramfs, fds::INITRAMFS),
            (inputs.kvm, fds::KVM),
        ];
        descriptors.extend(inputs.disks.iter().copied().zip(fds::DISKS..));
        Self::start(id, Role::Monitor, inputs.streams, &descriptors, report)
    }

    fn start(
        id: &str,
        role: Role,
        streams: Streams,
        descriptors: &[(BorrowedFd<'_>, RawFd)],
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        Self::start_process(id, role, streams, descriptors, report).map_err(|source| MonitorError::Start {
            role,
            id: id.to_string(),
            source,
        })
    }

    fn start_process(
        id: &str,
        role: Role,
        streams: Streams,
        descriptors: &[(BorrowedFd<'_>, RawFd)],
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let descriptors: Vec<_> =
            [(theirs.as_fd(), fds::CONTROL)].into_iter().chain(descriptors.iter().copied()).collect();
        let pid = sys::spawn(&Spawn {
            path: c"/proc/self/exe",
            arguments: &[CString::new(format!("sandbox: {id}"))?, CString::from(role.word())],
            environment: &environment(),
            streams,
            descriptors: &descriptors,
        })?;
        drop(theirs);
        Self::adopt(id, (role, pid), control, report)
    }

    /// Watches a child process that speaks a monitor's part on `control`.
    pub(crate) fn adopt(
        id: &str,
        (role, pid): (Role, i32),
        control: UnixStream,
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        // Nobody else reaps this process, so that its number cannot be another's yet.
        let process = Arc::new(pidfd_open(process, PidfdFlags::empty())?);
        let control = Arc::new(control);
        let killer = Killer { process, role, control: control.clone() };
        let shared = Arc::new(Shared::default());
        let monitor = Self { id: id.to_string(), pid, control, killer, shared, orders: Mutex::default() };
        let (reader, killer, shared) = (monitor.control.try_clone()?, monitor.killer.clone(), monitor.shared.clone());
        thread::Builder::new().name("monitor events".to_string()).spawn(move || {
            read_events(reader, &shared, report);
            let end = reap(&killer);
            shared.change(|fate| {
                fate.end = Some(end);
                if let Some(guest) = fate.tied.take() {
                    guest.close();
                }
            });
        })?;
        Ok(monitor)
    }

    /// Tells the monitor what to run.
    pub fn configure(&self, config: &MonitorConfig) -> Result<(), MonitorError> {
        self.begin(config)
    }

    fn begin(&self, config: &impl Serialize) -> Result<(), MonitorError> {
        let start = |source| MonitorError::Start { role: self.killer.role, id: self.id.clone(), source };
        let mut line = serde_json::to_vec(config).map_err(|error| start(error.into()))?;
        line.push(b'\n');
        // A process that is gone already has a better reason than a broken pipe.
        (&*self.control).write_all(&line).map_err(|source| self.why_gone().unwrap_or_else(|| start(source)))
    }

    /// Has the running VM get or lose a device. Gives the device's window, or the monitor's sentence.
    pub fn carry_out(
        &self,
        order: &MonitorOrder,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Result<u32, String>, MonitorError> {
        let answer = self.ask(order, descriptors)?.window();
        answer.ok_or_else(|| self.silent(io::ErrorKind::InvalidData.into()))
    }

    fn ask(&self, order: &MonitorOrder, descriptors: &[BorrowedFd<'_>]) -> Result<MonitorEvent, MonitorError> {
        // An answer is to the order before it.
        let _one = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let late = self.shared.fate().late;
        if let Some(plugs) = late {
            let answer = self.shared.wait_answer().ok_or_else(|| self.unanswered())?;
            self.shared.fate().late = None;
            // What came when nobody waited for it any more would keep its window, and its tap, for good.
            if let (true, MonitorEvent::Done { window }) = (plugs, answer) {
                let _ = self.ask_next(&MonitorOrder::Unplug { window }, &[])?;
            }
        }
        self.ask_next(order, descriptors)
    }

    fn ask_next(&self, order: &MonitorOrder, descriptors: &[BorrowedFd<'_>]) -> Result<MonitorEvent, MonitorError> {
        let silent = |source| self.silent(source);
        let mut line = serde_json::to_vec(order).map_err(|error| silent(error.into()))?;
        line.push(b'\n');
        self.shared.fate().answer = None;
        descriptors::send(self.control.as_fd(), descriptors, &line)
            .map_err(|source| self.why_gone().unwrap_or_else(|| silent(source)))?;
        self.shared.wait_answer().ok_or_else(|| {
            self.shared.fate().late = Some(matches!(order, MonitorOrder::Plug { .. }));
            self.unanswered()
        })
    }

    fn silent(&self, source: io::Error) -> MonitorError {
        MonitorError::Silent { role: self.killer.role, id: self.id.clone(), source }
    }

    fn unanswered(&self) -> MonitorError {
        self.verdict().unwrap_or_else(|| self.silent(io::ErrorKind::TimedOut.into()))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What ends it at once.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Why the monitor's connections ended, after they did; nothing if it goes on nevertheless.
    pub fn why_gone(&self) -> Option<MonitorError> {
        self.shared.wait_end(GONE_TIMEOUT);
        self.verdict()
    }

    /// Why the monitor ended or is about to, as far as is known.
    pub fn verdict(&self) -> Option<MonitorError> {
        let fate = self.shared.fate();
        let id = self.id.clone();
        if let Some(message) = fate.failed.clone() {
            return Some(MonitorError::Failed(shown(&message)));
        }
        if let Some((panic, console)) = fate.stopped.clone() {
            let agent = console.iter().any(|line| line.contains("Attempted to kill init!"));
            return Some(match (panic, agent) {
                (_, true) => MonitorError::Agent { id, console },
                (true, false) => MonitorError::Panic { id, console },
                (false, false) => MonitorError::Stopped { id, console },
            });
        }
        fate.end.map(|end| match end {
            End::Exited(status) => MonitorError::Exited { role: self.killer.role, id, status },
            End::Killed(signal) => MonitorError::Killed { role: self.killer.role, id, signal },
        })
    }

    /// Adds what the guest's console shows to the sentence that says what the guest has not done in time.
    pub fn unresponsive(&self, sentence: String) -> MonitorError {
        let console = match self.killer.role {
            Role::Monitor => match self.ask(&MonitorOrder::Console, &[]) {
                Ok(MonitorEvent::Console { lines }) => lines,
                _ => Vec::new(),
            },
            // The guest's console is another container's.
            Role::Keeper => Vec::new(),
        };
        MonitorError::Unresponsive { sentence, console }
    }

    /// Lets the monitor end by itself, or makes it.
    pub fn end(&self) {
        let _ = self.control.shutdown(Shutdown::Both);
        let patience = self.killer.role.patience();
        if !self.shared.wait_end(patience) {
            self.killer.force();
            self.shared.wait_end(patience);
        }
    }
}

impl Drop for MonitorProcess {
    fn drop(&mut self) {
        self.killer.kill();
        self.end();
    }
}

/// What of this process's environment those that it starts may know: settings for themselves.
pub(crate) fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter(|(name, _)| name != crate::proxy::ROLE_VARIABLE)
        .filter(|(name, _)| ["SANDBOX_", "RUST_"].iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())))
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect()
}

fn read_events(control: UnixStream, shared: &Shared, mut report: impl FnMut(&MonitorEvent)) {
    let mut reader = BufReader::new(control);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(count) if count > 0 => {}
            _ => return,
        }
        let Ok(event) = serde_json::from_slice::<MonitorEvent>(&line) else {
            continue;
        };
        report(&event);
        match event {
            MonitorEvent::Failed { message } => shared.change(|fate| fate.failed = Some(message)),
            MonitorEvent::Stopped { panic, console } => shared.change(|fate| fate.stopped = Some((panic, console))),
            MonitorEvent::Attached => {
                shared.change(|fate| fate.attached = true);
                continue;
            }
            answer @ (MonitorEvent::Done { .. } | MonitorEvent::Refused { .. } | MonitorEvent::Console { .. }) => {
                shared.change(|fate| fate.answer = Some(answer));
                continue;
            }
            _ => continue,
        }
        // Nothing of interest follows but the end.
        return;
    }
}

/// Waits for the process's end, and kills it if it takes too long: its reports have ended.
fn reap(killer: &Killer) -> End {
    let patience = killer.role.patience();
    let deadline = Instant::now() + patience;
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    let mut fd = [PollFd::new(&*killer.process, PollFlags::IN)];
    let ended = retry_on_intr(|| poll(&mut fd, Some(&timeout)));
    if !matches!(ended, Ok(count) if count > 0) || Instant::now() > deadline {
        killer.force();
    }
    let status = retry_on_intr(|| waitid(WaitId::PidFd(killer.process.as_fd()), WaitIdOptions::EXITED));
    match status {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => End::Exited(code),
            (None, signal) => End::Killed(signal.unwrap_or(libc::SIGKILL)),
        },
        // Somebody reaped it before: the status is lost.
        _ => End::Exited(1),
    }
}

#[cfg(test)]
mod tests;
