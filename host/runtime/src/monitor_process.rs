//! The monitor process, seen from the command that starts it: spawning, its reports, its end.

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

use crate::control::{MonitorConfig, MonitorEvent, MonitorOrder, fds};
use crate::descriptors;
use crate::error::{Plain, shown};
use crate::sys::{self, Spawn, Streams};

/// How long a monitor may take to end once it was told to, or has said that it will.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to plug a device in: a guest can keep the device's window busy for a moment.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// A line of the monitor's reports; console lines are the longest part.
const LINE_LIMIT: u64 = 1 << 20;

/// Why there is no running micro-VM.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The process could not be started or spoken to.
    #[error("cannot start the monitor of container {id:?}: {}", Plain(.source))]
    Start {
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
    /// It does not do what it is told.
    #[error("the monitor of container {id:?} does not answer: {}", Plain(.source))]
    Silent {
        /// The container.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// A signal killed the monitor.
    #[error("the monitor of container {id:?} was killed (signal {signal})")]
    Killed {
        /// The container.
        id: String,
        /// Which signal.
        signal: i32,
    },
    /// The monitor ended without a word.
    #[error("the monitor of container {id:?} ended (exit status {status})")]
    Exited {
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
    /// To the order that was given last: the window, or why not.
    answer: Option<Result<u32, String>>,
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
    fn wait_answer(&self) -> Option<Result<u32, String>> {
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
    /// Of a keeper, which has things to put in order: it ends when this is closed.
    control: Option<Arc<UnixStream>>,
}

impl Killer {
    /// Ends it. The process may have ended already.
    pub fn kill(&self) {
        match &self.control {
            Some(control) => drop(control.shutdown(Shutdown::Both)),
            None => self.force(),
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
    control: UnixStream,
    killer: Killer,
    shared: Arc<Shared>,
}

impl MonitorProcess {
    /// Starts the monitor of a container. `report` is called with each event, on another thread.
    pub fn spawn(
        id: &str,
        inputs: &Inputs<'_>,
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        Self::start(id, inputs, report).map_err(|source| MonitorError::Start { id: id.to_string(), source })
    }

    /// Starts what a container has in a monitor's place whose micro-VM is another container's.
    pub fn spawn_keeper(
        id: &str,
        streams: Streams,
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> Result<Self, MonitorError> {
        let start = || {
            let mut keeper = Self::start_process(id, c"keeper", streams, &[], report)?;
            keeper.killer.control = Some(Arc::new(keeper.control.try_clone()?));
            Ok(keeper)
        };
        start().map_err(|source| MonitorError::Start { id: id.to_string(), source })
    }

    fn start(id: &str, inputs: &Inputs<'_>, report: impl FnMut(&MonitorEvent) + Send + 'static) -> io::Result<Self> {
        let mut descriptors = vec![
            (inputs.listener, fds::VSOCK_LISTENER),
            (inputs.kernel, fds::KERNEL),
            (inputs.initramfs, fds::INITRAMFS),
            (inputs.kvm, fds::KVM),
        ];
        descriptors.extend(inputs.disks.iter().copied().zip(fds::DISKS..));
        Self::start_process(id, c"monitor", inputs.streams, &descriptors, report)
    }

    fn start_process(
        id: &str,
        command: &CStr,
        streams: Streams,
        descriptors: &[(BorrowedFd<'_>, RawFd)],
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let descriptors: Vec<_> =
            [(theirs.as_fd(), fds::CONTROL)].into_iter().chain(descriptors.iter().copied()).collect();
        let pid = sys::spawn(&Spawn {
            path: c"/proc/self/exe",
            arguments: &[CString::new(format!("sandbox: {id}"))?, CString::from(command)],
            environment: &environment(),
            streams,
            descriptors: &descriptors,
        })?;
        drop(theirs);
        Self::adopt(id, pid, control, report)
    }

    /// Watches a child process that speaks a monitor's part on `control`.
    pub(crate) fn adopt(
        id: &str,
        pid: i32,
        control: UnixStream,
        report: impl FnMut(&MonitorEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let process = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        // Nobody else reaps this process, so that its number cannot be another's yet.
        let killer = Killer { process: Arc::new(pidfd_open(process, PidfdFlags::empty())?), control: None };
        let shared = Arc::new(Shared::default());
        let monitor = Self { id: id.to_string(), pid, control, killer, shared };
        let (reader, killer, shared) = (monitor.control.try_clone()?, monitor.killer.clone(), monitor.shared.clone());
        thread::Builder::new().name("monitor events".to_string()).spawn(move || {
            read_events(reader, &shared, report);
            let end = reap(&killer);
            shared.change(|fate| fate.end = Some(end));
        })?;
        Ok(monitor)
    }

    /// Tells the monitor what to run.
    pub fn configure(&self, config: &MonitorConfig) -> Result<(), MonitorError> {
        let start = |source| MonitorError::Start { id: self.id.clone(), source };
        let mut line = serde_json::to_vec(config).map_err(|error| start(error.into()))?;
        line.push(b'\n');
        // A monitor that is gone already has a better reason than a broken pipe.
        (&self.control).write_all(&line).map_err(|source| self.why_gone().unwrap_or_else(|| start(source)))
    }

    /// Plugs a network device into the running VM, behind a tap and, if it is there, the host kernel's vhost-net. Gives the device's
    /// window, or the monitor's sentence. One order at a time: whoever calls this holds a lock.
    pub fn plug(
        &self,
        mac: [u8; 6],
        tap: &OwnedFd,
        vhost: Option<&OwnedFd>,
    ) -> Result<Result<u32, String>, MonitorError> {
        let descriptors: Vec<BorrowedFd<'_>> = [Some(tap), vhost].into_iter().flatten().map(AsFd::as_fd).collect();
        self.order(&MonitorOrder::Plug { mac }, &descriptors)
    }

    /// Takes the device in a window out of the VM, once the guest has let go of it.
    pub fn unplug(&self, window: u32) -> Result<Result<(), String>, MonitorError> {
        Ok(self.order(&MonitorOrder::Unplug { window }, &[])?.map(drop))
    }

    fn order(&self, order: &MonitorOrder, descriptors: &[BorrowedFd<'_>]) -> Result<Result<u32, String>, MonitorError> {
        let silent = |source| MonitorError::Silent { id: self.id.clone(), source };
        let mut line = serde_json::to_vec(order).map_err(|error| silent(error.into()))?;
        line.push(b'\n');
        self.shared.fate().answer = None;
        descriptors::send(self.control.as_fd(), descriptors, &line)
            .map_err(|source| self.why_gone().unwrap_or_else(|| silent(source)))?;
        self.answer()
    }

    /// What it says next of an order, or of the configuration, if it is a keeper.
    pub fn answer(&self) -> Result<Result<u32, String>, MonitorError> {
        let silent = || MonitorError::Silent { id: self.id.clone(), source: io::ErrorKind::TimedOut.into() };
        self.shared.wait_answer().ok_or_else(|| self.verdict().unwrap_or_else(silent))
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
        self.shared.wait_end(END_TIMEOUT * 2);
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
            End::Exited(status) => MonitorError::Exited { id, status },
            End::Killed(signal) => MonitorError::Killed { id, signal },
        })
    }

    /// Lets the monitor end by itself, or makes it.
    pub fn end(&self) {
        let _ = self.control.shutdown(Shutdown::Both);
        if !self.shared.wait_end(END_TIMEOUT) {
            self.killer.force();
            self.shared.wait_end(END_TIMEOUT);
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
            MonitorEvent::Done { window } => {
                shared.change(|fate| fate.answer = Some(Ok(window)));
                continue;
            }
            MonitorEvent::Refused { message } => {
                shared.change(|fate| fate.answer = Some(Err(shown(&message))));
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
    let deadline = Instant::now() + END_TIMEOUT;
    let timeout = Timespec { tv_sec: END_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
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
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;

    use super::*;

    /// A shell in the monitor's place: its descriptor 3 is the control socket.
    fn monitor(script: &str) -> (MonitorProcess, mpsc::Receiver<MonitorEvent>) {
        let (control, theirs) = UnixStream::pair().unwrap();
        let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
        let pid = sys::spawn(&Spawn {
            path: c"/bin/sh",
            arguments: &arguments,
            environment: &[c"PATH=/bin:/usr/bin".into()],
            streams: Streams::Stderr,
            descriptors: &[(theirs.as_fd(), fds::CONTROL)],
        })
        .unwrap();
        let (sender, receiver) = mpsc::channel();
        let report = move |event: &MonitorEvent| drop(sender.send(event.clone()));
        (MonitorProcess::adopt("c1", pid, control, report).unwrap(), receiver)
    }

    fn config() -> MonitorConfig {
        MonitorConfig {
            id: "c1".into(),
            vcpus: 1,
            memory_mib: 64,
            kernel_arguments: String::new(),
            shares: vec![],
            cache: Default::default(),
            disks: vec![],
            joins: None,
            socket: Default::default(),
        }
    }

    #[test]
    fn configuration_goes_in_and_events_come_out() {
        let script = r#"read line <&3; case "$line" in *'"id":"c1"'*) echo '{"event":"started","at_ns":5}' >&3;; esac
            read line <&3; exit 0"#;
        let (monitor, events) = monitor(script);
        monitor.configure(&config()).unwrap();
        assert_eq!(events.recv().unwrap(), MonitorEvent::Started { at_ns: 5 });
        assert!(monitor.verdict().is_none());
        let start = Instant::now();
        monitor.end();
        assert!(start.elapsed() < END_TIMEOUT);
    }

    #[test]
    fn orders_are_answered() {
        let script = r#"read line <&3; case "$line" in *'"order":"unplug"'*) echo '{"event":"done","window":4}' >&3;; esac
            read line <&3; echo '{"event":"refused","message":"no \u001broom"}' >&3; read line <&3"#;
        let (monitor, _events) = monitor(script);
        assert_eq!(monitor.unplug(4).unwrap(), Ok(()));
        let (_reader, writer) = io::pipe().unwrap();
        assert_eq!(monitor.plug([2; 6], &OwnedFd::from(writer), None).unwrap(), Err("no  room".to_string()));
        monitor.end();
        assert!(monitor.unplug(4).is_err());
    }

    #[test]
    fn its_own_sentence_is_the_reason() {
        let (monitor, _events) = monitor(r#"echo '{"event":"failed","message":"no \u001bmemory"}' >&3; exit 1"#);
        assert_eq!(monitor.why_gone().unwrap().to_string(), "no  memory");
    }

    #[test]
    fn panics_show_the_console() {
        let event = |panic: bool, line: &str| {
            format!(r#"echo '{{"event":"stopped","panic":{panic},"console":["one","{line}"]}}' >&3"#)
        };
        let why = |script: String| monitor(&script).0.why_gone().unwrap().to_string();
        let text = why(event(true, "Kernel panic"));
        assert_eq!(
            text,
            "the guest kernel of container \"c1\" panicked; the last lines of its console:\n  one\n  Kernel panic"
        );
        assert!(
            why(event(true, "Attempted to kill init!"))
                .starts_with("the agent in the guest of container \"c1\" crashed")
        );
        assert!(why(event(false, "x")).starts_with("the guest of container \"c1\" ended unexpectedly"));
    }

    #[test]
    fn kills_and_silent_ends_are_told_apart() {
        let why = |script: &str| monitor(script).0.why_gone().unwrap().to_string();
        assert_eq!(why("kill -9 $$"), "the monitor of container \"c1\" was killed (signal 9)");
        assert_eq!(why("exit 3"), "the monitor of container \"c1\" ended (exit status 3)");
    }

    #[test]
    fn a_monitor_that_says_it_stopped_and_stays_is_killed() {
        let (monitor, _events) = monitor(r#"echo '{"event":"failed","message":"odd"}' >&3; exec sleep 100"#);
        assert_eq!(monitor.why_gone().unwrap().to_string(), "odd");
        assert_eq!(monitor.shared.fate().end, Some(End::Killed(9)));
    }

    #[test]
    fn dropping_leaves_no_process() {
        let (monitor, _events) = monitor("exec sleep 100");
        let pidfd = monitor.killer.process.clone();
        assert!(pidfd.as_raw_fd() > 2);
        drop(monitor);
        assert!(pidfd_send_signal(&pidfd, Signal::TERM).is_err());
    }

    #[test]
    fn rubbish_is_not_believed() {
        let (monitor, events) =
            monitor(r#"echo nonsense >&3; echo '{"event":"started","at_ns":1}' >&3; read line <&3"#);
        assert_eq!(events.recv().unwrap(), MonitorEvent::Started { at_ns: 1 });
        monitor.end();
    }
}
