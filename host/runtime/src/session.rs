//! One container from its monitor's start to its end.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_protocol::agent::{Stdio, TerminalSize};
use oci_spec::runtime::Spec;

use crate::control::{MonitorConfig, MonitorEvent};
use crate::guest::{ConnectError, Guest, GuestError, connect_stdio};
use crate::images::Images;
use crate::machine::Machine;
use crate::monitor_process::{Inputs, Killer, MonitorProcess};
use crate::rpc::RpcError;
use crate::run::RunError;
use crate::share::Plan;
use crate::signals::{Signals, is_request_to_end};
use crate::state::{ContainerId, StateDir};
use crate::stdio::{self, Outputs};
use crate::sys::now_ns;
use crate::terminal::Terminal;
use crate::trace::{GuestClock, Lane, Trace};

/// How long output that is under way is waited for after the guest's end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// A monitor and what belongs to it. Dropping it ends the monitor, then removes the state.
#[derive(Debug)]
pub struct Session {
    id: ContainerId,
    monitor: MonitorProcess,
    state: StateDir,
    trace: Arc<Trace>,
    signalled: Arc<Signalled>,
    /// When the container's first output came, or 0.
    first_output_ns: Arc<AtomicU64>,
}

impl Session {
    /// Starts the monitor.
    pub fn start(id: ContainerId, state: StateDir, images: &Images, trace: Arc<Trace>) -> Result<Self, RunError> {
        // Bound here, and open only in the monitor afterwards: when it ends, so does every connection that waits.
        let listener = state.listen()?;
        let inputs = Inputs {
            listener: listener.as_fd(),
            kernel: images.kernel.as_fd(),
            initramfs: images.initramfs.as_fd(),
            kvm: images.kvm.as_fd(),
        };
        let begin = now_ns();
        let monitor = MonitorProcess::spawn(id.as_str(), &inputs, boot_reporter(trace.clone(), begin))?;
        trace.span(Lane::Command, "spawn monitor", begin, trace.now(Lane::Command, "monitor spawned"));
        let signalled = Arc::new(Signalled::new(monitor.killer()));
        Ok(Self { id, monitor, state, trace, signalled, first_output_ns: Arc::default() })
    }

    /// Runs the container to its end. Returns its exit status; all is cleaned up then.
    pub fn run(
        self,
        signals: Signals,
        machine: Machine,
        plan: Plan,
        terminal: Option<Terminal>,
    ) -> Result<u8, RunError> {
        let signalled = self.signalled.clone();
        signals.listen(move |signal| signalled.handle(signal)).map_err(RunError::setup("signals"))?;
        self.complete(machine, plan, terminal)
    }

    fn complete(self, machine: Machine, plan: Plan, terminal: Option<Terminal>) -> Result<u8, RunError> {
        let result = self.run_container(machine, plan, terminal);
        let aborted = self.signalled.aborted.load(Ordering::Acquire);
        match result {
            Ok((status, guest)) => {
                let begin = now_ns();
                // Whatever it answers: the monitor is made to end next.
                let _ = guest.shutdown();
                self.monitor.finish();
                self.trace.span(Lane::Command, "end guest", begin, now_ns());
                Ok(status)
            }
            Err(_) if aborted != 0 => Err(RunError::Aborted(aborted)),
            Err(error) => Err(self.explained(error)),
        }
    }

    fn run_container(
        &self,
        machine: Machine,
        plan: Plan,
        terminal: Option<Terminal>,
    ) -> Result<(u8, Arc<Guest>), RunError> {
        self.monitor.configure(&MonitorConfig {
            id: self.id.to_string(),
            vcpus: machine.vcpus,
            memory_mib: machine.memory_mib,
            kernel_arguments: String::new(),
            shares: plan.shares,
            cache: machine.cache,
        })?;
        // From here on the guest boots. Everything that needs it waits for it by itself.
        let socket = self.state.socket();
        let (mut stdio, outputs) = self.start_stdio(&socket, terminal.is_some())?;
        stdio.terminal_size = terminal.as_ref().and_then(|terminal| size(terminal, &plan.spec)).into();
        let spec =
            serde_json::to_vec(&plan.spec).map_err(|error| RunError::setup("the configuration")(error.into()))?;
        let guest = Arc::new(Guest::connect(&socket, self.id.as_str())?);
        let clock = self.create(&guest, spec, stdio)?;
        let raw = terminal.as_ref().map(Terminal::make_raw).transpose()?;
        self.start_container(&guest, clock)?;
        self.signalled.set(Phase::Running(guest.clone(), terminal));
        let status = self.wait(&guest, clock, outputs)?;
        drop(raw);
        Ok((status, guest))
    }

    fn start_stdio(&self, socket: &Path, terminal: bool) -> Result<(Stdio, Outputs), RunError> {
        let (socket, trace, first_ns) = (socket.to_path_buf(), self.trace.clone(), self.first_output_ns.clone());
        let first_output = move || {
            let now = now_ns();
            if first_ns.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                trace.at(Lane::Command, "first output", now);
            }
        };
        let connect = move |token| connect_stdio(&socket, token);
        stdio::start(terminal, connect, first_output).map_err(RunError::setup("stdin, stdout and stderr"))
    }

    fn create(&self, guest: &Guest, spec: Vec<u8>, stdio: Stdio) -> Result<GuestClock, RunError> {
        let trace = &self.trace;
        let sent = trace.now(Lane::Command, "agent connected");
        let created = guest.create(spec, stdio)?;
        let answered = now_ns();
        let clock = GuestClock::by_call(sent, created.received_ns, created.replied_ns, answered);
        let (received, replied) = (clock.host(created.received_ns), clock.host(created.replied_ns));
        trace.span(Lane::Command, "CreateContainer", sent, answered);
        trace.span(Lane::Guest, "create container", received, replied);
        trace.at(Lane::Guest, "agent listening", clock.host(created.agent_listening_ns));
        trace.at(Lane::Guest, "rootfs mounted", clock.host(created.rootfs_mounted_ns));
        trace.at(Lane::Guest, "container created", replied);
        Ok(clock)
    }

    fn start_container(&self, guest: &Guest, clock: GuestClock) -> Result<(), RunError> {
        let sent = now_ns();
        let started = guest.start()?;
        let answered = now_ns();
        self.trace.span(Lane::Command, "StartContainer", sent, answered);
        // The clocks agree to half a round trip; what is known about the order of things is more exact.
        let first_output = self.first_output_ns.load(Ordering::Acquire);
        let latest = if first_output == 0 { answered } else { answered.min(first_output).max(sent) };
        self.trace.at(Lane::Guest, "container executed", clock.host(started.executed_ns).clamp(sent, latest));
        Ok(())
    }

    /// Waits for the container's end and its output.
    fn wait(&self, guest: &Guest, clock: GuestClock, outputs: Outputs) -> Result<u8, RunError> {
        let begin = now_ns();
        // What it wrote before its guest died is shown too.
        let ended = guest.wait().inspect_err(|_| outputs.wait_timeout(LAST_OUTPUT))?;
        self.trace.span(Lane::Command, "WaitProcess", begin, now_ns());
        self.trace.at(Lane::Guest, "container exited", clock.host(ended.exited_ns));
        self.signalled.set(Phase::Ended(outputs.clone()));
        outputs.wait();
        self.trace.now(Lane::Command, "exit");
        Ok(u8::try_from(ended.exit_status).unwrap_or(u8::MAX))
    }

    /// The better sentence, if the monitor knows why a connection broke.
    fn explained(&self, error: RunError) -> RunError {
        let better = match &error {
            RunError::Guest(GuestError::Rpc(RpcError::Closed | RpcError::Io(_))) => self.monitor.why_gone(),
            RunError::Guest(GuestError::Connect(ConnectError::Closed(_) | ConnectError::Io(_))) => {
                self.monitor.why_gone()
            }
            RunError::Guest(
                GuestError::Rpc(RpcError::Timeout { .. }) | GuestError::Connect(ConnectError::Timeout(_)),
            ) => self.monitor.verdict(),
            _ => None,
        };
        better.map_or(error, RunError::Monitor)
    }
}

/// The terminal's size, else what the configuration says.
fn size(terminal: &Terminal, spec: &Spec) -> Option<TerminalSize> {
    let configured = || {
        let size = spec.process().as_ref()?.console_size()?;
        let (rows, columns) = (u32::try_from(size.height()).ok()?, u32::try_from(size.width()).ok()?);
        (rows != 0 && columns != 0).then(|| TerminalSize { rows, columns, ..Default::default() })
    };
    terminal.size().or_else(configured)
}

/// Puts the monitor's reports into the trace: each is a moment, and the time since the one before has a name.
fn boot_reporter(trace: Arc<Trace>, begin: u64) -> impl FnMut(&MonitorEvent) + Send {
    let mut last = begin;
    move |event| {
        let (span, moment, at) = match event {
            MonitorEvent::Started { at_ns } => ("start monitor", "monitor started", *at_ns),
            MonitorEvent::VmCreated { at_ns } => ("make VM", "VM created", *at_ns),
            MonitorEvent::KernelEntered { at_ns } => ("enter kernel", "kernel entered", *at_ns),
            MonitorEvent::AgentReady { at_ns } => ("boot guest", "agent up", *at_ns),
            MonitorEvent::Failed { .. } | MonitorEvent::Stopped { .. } => {
                trace.now(Lane::Monitor, "VM ended");
                return;
            }
        };
        trace.span(Lane::Monitor, span, last, at);
        trace.at(Lane::Monitor, moment, at);
        last = at;
    }
}

/// What a signal means just now.
#[derive(Debug)]
enum Phase {
    /// The container does not run yet: a request to end ends the start.
    Starting,
    /// The container gets the signals; a new size of the terminal becomes its terminal's.
    Running(Arc<Guest>, Option<Terminal>),
    /// The container has ended; what is left is its output.
    Ended(Outputs),
}

/// What the signals' thread shares with the others.
#[derive(Debug)]
struct Signalled {
    phase: Mutex<Phase>,
    killer: Killer,
    /// The signal that ended the start, or 0.
    aborted: AtomicI32,
}

impl Signalled {
    fn new(killer: Killer) -> Self {
        Self { phase: Mutex::new(Phase::Starting), killer, aborted: AtomicI32::new(0) }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn handle(&self, signal: i32) {
        let phase = self.phase();
        let (guest, size) = match &*phase {
            Phase::Starting if is_request_to_end(signal) => {
                self.aborted.store(signal, Ordering::Release);
                return self.killer.kill();
            }
            Phase::Ended(outputs) if is_request_to_end(signal) => return outputs.abandon(),
            Phase::Starting | Phase::Ended(_) => return,
            Phase::Running(guest, terminal) => (guest.clone(), terminal.as_ref().and_then(Terminal::size)),
        };
        // Not held while the guest answers.
        drop(phase);
        // An error means that the container has ended, or that its guest has: others see that too.
        let _ = match size {
            Some(size) if signal == libc::SIGWINCH => guest.resize(size),
            _ => guest.signal(signal.unsigned_abs()),
        };
    }
}

#[cfg(test)]
mod tests;
