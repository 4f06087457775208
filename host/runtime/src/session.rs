//! One container in its proxy, from its monitor's start to its end.

mod error;
mod growth;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use agent_protocol::agent::{BlockDevice, CreateContainerRequest, Stdio};
use protobuf::MessageField;

use crate::blocks::Opened;
use crate::cgroup::HostCgroup;
use crate::clock;
use crate::control::{Disk, KeeperConfig, KeeperTask, MonitorConfig, MonitorEvent};
use crate::guest::{ConnectError, Guest, GuestError, connect_stdio};
use crate::images::Images;
use crate::joined::Owner;
use crate::monitor_process::{self, Inputs, Killer, MonitorProcess};
use crate::network::windows::{Lent, Windows};
use crate::network::{self, Interfaces, Look, NetworkError, ipv6, names};
use crate::preserved::Preserved;
use crate::proxy::protocol::ContainerOrder;
use crate::proxy::{End, oom};
use crate::rpc::RpcError;
use crate::signals::{Signals, is_request_to_end};
use crate::sockets::{self, Carrying};
use crate::state::{self, Status};
use crate::stdio::{self, Outputs};
use crate::sys::{Streams, now_ns};
use crate::terminal::Terminal;
use crate::trace::{GuestClock, Lane, Trace};
use crate::watching::{self, Watching};

pub use error::SessionError;
use growth::Growth;

/// How long output that is under way is waited for after the guest's end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);
/// Signals kept for a container that is about to be executed.
const PENDING_LIMIT: usize = 64;

/// A monitor and what belongs to it. Dropping it ends the monitor.
#[derive(Debug)]
pub struct Session {
    id: String,
    monitor: MonitorProcess,
    state: Arc<OwnedFd>,
    trace: Arc<Trace>,
    signalled: Arc<Signalled>,
    terminal: Option<Terminal>,
    /// When the container's first output came, or 0.
    first_output_ns: Arc<AtomicU64>,
    clock: OnceLock<GuestClock>,
    /// Held while the container is executed.
    executing: Mutex<()>,
    /// Nothing where the container is to have no network namespace of its own.
    interfaces: Mutex<Option<Interfaces>>,
    /// What carries its connections to the host's sockets.
    sockets: OnceLock<Carrying>,
    /// The container says when it is ready.
    notify: AtomicBool,
    /// What its hooks may take when it is started.
    start_seconds: AtomicU64,
    /// Where the micro-VM is another container's: how to end this one's part in it.
    joined: Option<KeeperConfig>,
    /// Block devices that the guest has.
    disks: Vec<Disk>,
    /// The guest's memory.
    growth: Arc<Growth>,
}

impl Session {
    /// Starts the monitor.
    pub fn start(
        id: &str,
        state: OwnedFd,
        (images, blocks): (&Images, Vec<Opened>),
        streams: Streams,
        terminal: Option<Terminal>,
        trace: Arc<Trace>,
    ) -> Result<Self, SessionError> {
        // Bound here, and open only in the monitor afterwards: when it ends, so does every connection that waits.
        let listener = state::listen(state.as_fd()).map_err(SessionError::setup("the socket to the guest"))?;
        let inputs = Inputs {
            streams,
            listener: listener.as_fd(),
            kernel: images.kernel.as_fd(),
            initramfs: images.initramfs.as_fd(),
            kvm: images.kvm.as_fd(),
            disks: blocks.iter().map(|block| block.file.as_fd()).collect(),
        };
        let begin = now_ns();
        let growth = Arc::new(Growth::default());
        let monitor = MonitorProcess::spawn(id, &inputs, reporter(growth.clone(), trace.clone(), begin))?;
        trace.span(Lane::Command, "spawn monitor", begin, trace.now(Lane::Command, "monitor spawned"));
        let disks = blocks.into_iter().map(|block| block.disk).collect();
        Ok(Self { disks, growth, ..Self::with(id, monitor, state, terminal, trace) })
    }

    /// Makes do with another container's micro-VM.
    pub fn join(
        id: &str,
        state: OwnedFd,
        (root, owner): (&Path, &Owner),
        streams: Streams,
        terminal: Option<Terminal>,
        trace: Arc<Trace>,
    ) -> Result<Self, SessionError> {
        state::lead_to(state.as_fd(), root, &owner.id).map_err(SessionError::setup("the way to the guest"))?;
        let keeper = MonitorProcess::spawn_keeper(id, streams)?;
        let (monitor, socket) = (owner.monitor, state::link_in(root, id));
        let joined = Some(KeeperConfig { id: id.to_string(), monitor, socket, task: KeeperTask::Clear });
        Ok(Self { joined, ..Self::with(id, keeper, state, terminal, trace) })
    }

    fn with(id: &str, monitor: MonitorProcess, state: OwnedFd, terminal: Option<Terminal>, trace: Arc<Trace>) -> Self {
        let state = Arc::new(state);
        let signalled = Arc::new(Signalled::new(monitor.killer(), state.clone(), terminal.clone()));
        Self {
            id: id.to_string(),
            monitor,
            state,
            trace,
            signalled,
            terminal,
            first_output_ns: Arc::default(),
            clock: OnceLock::new(),
            executing: Mutex::default(),
            interfaces: Mutex::default(),
            sockets: OnceLock::new(),
            notify: AtomicBool::new(false),
            start_seconds: AtomicU64::new(0),
            joined: None,
            disks: Vec::new(),
            growth: Arc::default(),
        }
    }

    /// The monitor's process id.
    pub fn monitor_pid(&self) -> i32 {
        self.monitor.pid()
    }

    /// The container's state directory.
    pub fn state(&self) -> Arc<OwnedFd> {
        self.state.clone()
    }

    /// Handles signals from now on.
    pub fn listen(&self, signals: Signals) -> Result<(), SessionError> {
        let signalled = self.signalled.clone();
        signals.listen(move |signal| signalled.handle(signal)).map_err(SessionError::setup("signals"))
    }

    /// Has the guest get, from the time when its container is made, what this thread's network namespace has. `owner` is the container,
    /// below a root, that has the micro-VM, where it is another one; else that has so many CPUs.
    pub fn join_network(&self, vcpus: u8, owner: Option<(&Path, &Owner)>) -> Result<(), SessionError> {
        let lent = owner.map(|(root, owner)| Lent::new(&self.id, root, owner)).transpose();
        let lent = lent.map_err(SessionError::setup("the network in another container's micro-VM"))?;
        *self.interfaces() = Some(Interfaces::new(state::socket_in(self.state.as_fd()), vcpus, lent)?);
        Ok(())
    }

    /// Where devices are plugged in, for others who live in the micro-VM.
    pub fn windows(&self) -> Result<&dyn Windows, String> {
        match &self.joined {
            None => Ok(&self.monitor),
            Some(_) => Err("the micro-VM is another container's".to_string()),
        }
    }

    fn interfaces(&self) -> MutexGuard<'_, Option<Interfaces>> {
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest the network that the namespace has by now. This thread must be in it.
    pub fn follow_network(&self) -> Result<(), NetworkError> {
        let Some(guest) = self.signalled.guest() else { return Ok(()) };
        match &mut *self.interfaces() {
            Some(interfaces) => interfaces.follow(&self.id, &self.monitor, &guest),
            None => Ok(()),
        }
    }

    /// Has the guest boot. Everything that needs it waits for it by itself.
    pub fn boot(&self, order: &ContainerOrder) -> Result<(), SessionError> {
        if let Some(keeper) = &self.joined {
            let config = KeeperConfig { task: KeeperTask::Keep(order.shares.clone()), ..keeper.clone() };
            return self.monitor.keep(&config).map_err(|error| self.explained(error.into()));
        }
        let config = MonitorConfig {
            id: self.id.clone(),
            vcpus: order.vcpus,
            memory_mib: order.memory_mib,
            memory_most_mib: order.memory_most_mib,
            kernel_arguments: order.kernel_arguments.clone(),
            shares: order.shares.clone(),
            cache: order.cache,
            disks: self.disks.clone(),
        };
        self.monitor.configure(&config).map_err(|error| self.explained(error.into()))
    }

    /// Makes the container once `proceed` says so, calls `ready`, and waits for the container's end.
    pub fn run(
        self: &Arc<Self>,
        order: ContainerOrder,
        preserved: Vec<Preserved>,
        proceed: &Receiver<String>,
        ready: impl FnOnce() -> Result<(), SessionError>,
    ) -> Result<End, SessionError> {
        self.growth.set(self, order.memory_mib, order.memory_most_mib);
        let result = self.run_container(order, preserved, proceed, ready);
        // What was asked for and is under way gets its answer first.
        drop(self.executing.lock());
        match result {
            Ok((end, guest)) => {
                let begin = now_ns();
                if let Some(sockets) = self.sockets.get() {
                    sockets.finish();
                }
                if self.joined.is_none() {
                    // Whatever it answers: the monitor is made to end next.
                    let _ = guest.shutdown();
                }
                self.end_monitor();
                self.trace.span(Lane::Command, "end guest", begin, now_ns());
                Ok(end)
            }
            Err(error) => {
                let error = self.explained(error);
                self.end_monitor();
                Err(error)
            }
        }
    }

    /// Ends the monitor, or the keeper, which ends the container where the guest goes on for others.
    fn end_monitor(&self) {
        self.monitor.end();
        self.interfaces().take();
        if let Some(keeper) = self.joined.as_ref().filter(|_| !self.monitor.has_done_its_part())
            && keeper.monitor.is_alive()
        {
            monitor_process::clear(keeper);
        }
    }

    fn run_container(
        self: &Arc<Self>,
        order: ContainerOrder,
        preserved: Vec<Preserved>,
        proceed: &Receiver<String>,
        ready: impl FnOnce() -> Result<(), SessionError>,
    ) -> Result<(End, Arc<Guest>), SessionError> {
        let socket = state::socket_in(self.state.as_fd());
        let watching = Watching {
            id: self.id.clone(),
            socket: socket.clone(),
            monitor: order.joined.as_ref().map_or_else(|| self.monitor_pid(), |owner| owner.monitor.pid),
            shares: watching::watchable(&order.shares),
        };
        let (mut stdio, outputs) = self.start_stdio(socket.clone(), preserved)?;
        let started = sockets::start(&socket, order.sockets).map_err(SessionError::setup("the host's sockets"))?;
        let sockets = started.map(|(sockets, carrying)| {
            let _ = self.sockets.set(carrying);
            sockets
        });
        self.notify.store(order.notify, Ordering::Release);
        self.start_seconds.store(order.hook_seconds.start, Ordering::Release);
        let guest = Arc::new(Guest::connect(&socket, &self.id)?);
        self.trace.now(Lane::Command, "agent connected");
        // Of a micro-VM that is another container's, that one's proxy sets the clock.
        let _clock_follower = match self.joined {
            Some(_) => {
                self.monitor.tie(guest.clone());
                None
            }
            None => {
                let session = Arc::downgrade(self);
                let settled = move || {
                    if let Some(session) = session.upgrade() {
                        session.report_free_pages();
                    }
                };
                Some(clock::follow(guest.clone(), settled).map_err(SessionError::setup("a thread"))?)
            }
        };
        // The command may be gone: then so is the monitor.
        let state = proceed.recv().map_err(|_| RpcError::Closed)?;
        if self.interfaces().is_some() {
            ipv6::set(&order.ipv6_switches);
        }
        let size = self.terminal.as_ref().and_then(Terminal::size);
        stdio.terminal_size = size.clone().into();
        let request = CreateContainerRequest {
            spec_json: order.spec.into_bytes(),
            stdio: MessageField::some(stdio),
            state_json: state.into_bytes(),
            no_new_keyring: order.no_new_keyring,
            sockets: sockets.into(),
            notify: order.notify,
            block_devices: self.block_devices(),
            memory_grows: self.joined.is_none() && self.growth.is_possible(),
            ..Default::default()
        };
        let clock = self.create(&guest, request, order.hook_seconds.create)?;
        let _ = self.clock.set(clock);
        if self.signalled.aborted.load(Ordering::Acquire) != 0 {
            return Err(RpcError::Closed.into());
        }
        self.signalled.set(match order.attached {
            true => Phase::Executing(guest.clone(), Vec::new()),
            false => Phase::Created(guest.clone()),
        });
        // It may have changed while nobody looked.
        if let Some(now) = self.terminal.as_ref().and_then(Terminal::size).filter(|now| Some(now) != size.as_ref()) {
            let _ = guest.resize(now);
        }
        self.set_up_network()?;
        ready()?;
        watching::start(watching);
        let oom = oom::Watch::start(guest.clone(), self.state.clone()).map_err(SessionError::setup("a thread"))?;
        let end = self.wait(&guest, clock, outputs, oom)?;
        Ok((end, guest))
    }

    /// What the namespace has now, and what it gets later.
    fn set_up_network(self: &Arc<Self>) -> Result<(), SessionError> {
        if self.joined.is_some() && self.interfaces().is_none() && names::is_answered() {
            names::start(&state::socket_in(self.state.as_fd()), &self.id)?;
        }
        if self.interfaces().is_none() {
            return Ok(());
        }
        let begin = now_ns();
        let session = Arc::downgrade(self);
        let look = move || {
            let Some(session) = session.upgrade() else { return Look::Over };
            let followed = session.follow_network();
            match (followed, session.signalled.guest()) {
                (_, None) => Look::Over,
                (Ok(()), Some(_)) => Look::Done,
                (Err(error), Some(_)) => {
                    log::warn!("{error}");
                    Look::Failed
                }
            }
        };
        // Before the first look, so that nothing is missed between the two.
        network::watch(look).map_err(SessionError::setup("what follows the network"))?;
        self.follow_network()?;
        self.trace.span(Lane::Command, "set up network", begin, now_ns());
        Ok(())
    }

    fn start_stdio(&self, socket: PathBuf, preserved: Vec<Preserved>) -> Result<(Stdio, Outputs), SessionError> {
        let (trace, first_ns) = (self.trace.clone(), self.first_output_ns.clone());
        let first_output = move || {
            let now = now_ns();
            if first_ns.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                trace.at(Lane::Command, "first output", now);
            }
        };
        let connect = move |token| connect_stdio(&socket, token);
        let streams = || {
            let terminal = self.terminal.as_ref().map(Terminal::duplicate).transpose()?;
            stdio::start(terminal, preserved, connect, first_output)
        };
        streams().map_err(SessionError::setup("stdin, stdout and stderr"))
    }

    fn create(
        &self,
        guest: &Guest,
        request: CreateContainerRequest,
        hook_seconds: u64,
    ) -> Result<GuestClock, SessionError> {
        let trace = &self.trace;
        let sent = now_ns();
        let created = guest.create(request, hook_seconds)?;
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

    /// What the agent is told of the block devices.
    fn block_devices(&self) -> Vec<BlockDevice> {
        let told = |disk: &Disk| BlockDevice {
            major: disk.major,
            minor: disk.minor,
            access: disk.access.clone(),
            ..Default::default()
        };
        self.disks.iter().map(told).collect()
    }

    /// Executes the container's process, for a command that waits for its end.
    pub fn execute(&self) -> Result<(), SessionError> {
        let _executing = self.executing.lock();
        let Some(guest) = self.signalled.guest() else { return Err(RpcError::Closed.into()) };
        self.follow_network()?;
        let sent = now_ns();
        let (notify, seconds) = (self.notify.load(Ordering::Acquire), self.start_seconds.load(Ordering::Acquire));
        let started = guest.start(notify, seconds).map_err(|error| self.explained(error.into()))?;
        let answered = now_ns();
        self.trace.span(Lane::Command, "StartContainer", sent, answered);
        // The clocks agree to half a round trip; what is known about the order of things is more exact.
        let first_output = self.first_output_ns.load(Ordering::Acquire);
        let latest = if first_output == 0 { answered } else { answered.min(first_output).max(sent) };
        let executed = self.clock.get().map_or(answered, |clock| clock.host(started.executed_ns));
        self.trace.at(Lane::Guest, "container executed", executed.clamp(sent, latest));
        self.signalled.executed();
        Ok(())
    }

    /// Waits for the container's end and its output.
    fn wait(&self, guest: &Guest, clock: GuestClock, outputs: Outputs, oom: oom::Watch) -> Result<End, SessionError> {
        let begin = now_ns();
        // What it wrote before its guest died is shown too.
        let ended = guest.wait().inspect_err(|_| outputs.wait_timeout(LAST_OUTPUT))?;
        self.trace.span(Lane::Command, "WaitProcess", begin, now_ns());
        self.trace.at(Lane::Guest, "container exited", clock.host(ended.exited_ns));
        self.signalled.set(Phase::Ended(outputs.clone()));
        state::record_in(self.state.as_fd()).and_then(|record| record.cgroup).inspect(HostCgroup::lift_cpu_time);
        outputs.wait();
        if ended.oom_killed {
            oom.settle();
        }
        self.trace.now(Lane::Command, "exit");
        Ok(End::new(ended.exit_status, ended.signal))
    }

    /// The command that asked for the container is gone, and with it the wish.
    pub fn give_up(&self) {
        self.signalled.killer.kill();
    }

    /// The better sentence: a signal that ended the start, or what the monitor knows of why a connection broke.
    fn explained(&self, error: SessionError) -> SessionError {
        let aborted = self.signalled.aborted.load(Ordering::Acquire);
        if aborted != 0 {
            return SessionError::Aborted(aborted);
        }
        let better = match &error {
            SessionError::Guest(GuestError::Rpc(RpcError::Closed | RpcError::Io(_))) => self.monitor.why_gone(),
            SessionError::Guest(GuestError::Connect(ConnectError::Closed(_) | ConnectError::Io(_))) => {
                self.monitor.why_gone()
            }
            SessionError::Guest(
                GuestError::Rpc(RpcError::Timeout { .. }) | GuestError::Connect(ConnectError::Timeout(_)),
            ) => self.monitor.verdict().or_else(|| Some(self.monitor.unresponsive(error.to_string()))),
            _ => None,
        };
        better.map_or(error, SessionError::Monitor)
    }
}

/// Puts the monitor's reports of the start into the trace: each is a moment, and the time since the one before has a name. Passes on the
/// guest's wishes.
fn reporter(growth: Arc<Growth>, trace: Arc<Trace>, begin: u64) -> impl FnMut(&MonitorEvent) + Send {
    let mut last = begin;
    move |event| {
        let (span, moment, at) = match event {
            MonitorEvent::Started { at_ns } => ("start monitor", "monitor started", *at_ns),
            MonitorEvent::VmCreated { at_ns } => ("make VM", "VM created", *at_ns),
            MonitorEvent::KernelEntered { at_ns } => ("enter kernel", "kernel entered", *at_ns),
            MonitorEvent::AgentReady { at_ns } => ("boot guest", "agent up", *at_ns),
            MonitorEvent::MemoryWanted => return growth.wished(),
            MonitorEvent::Attached
            | MonitorEvent::Done { .. }
            | MonitorEvent::Refused { .. }
            | MonitorEvent::Console { .. } => return,
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
    /// There is no container yet: a request to end ends the start.
    Starting,
    /// The container waits for `start`.
    Created(Arc<Guest>),
    /// The container is being executed; it gets the signals afterwards.
    Executing(Arc<Guest>, Vec<i32>),
    /// The container gets the signals.
    Running(Arc<Guest>),
    /// The container has ended; what is left is its output.
    Ended(Outputs),
}

/// What the signals' thread shares with the others.
#[derive(Debug)]
struct Signalled {
    phase: Mutex<Phase>,
    killer: Killer,
    state: Arc<OwnedFd>,
    terminal: Option<Terminal>,
    /// The signal that ended the start, or 0.
    aborted: AtomicI32,
}

impl Signalled {
    fn new(killer: Killer, state: Arc<OwnedFd>, terminal: Option<Terminal>) -> Self {
        Self { phase: Mutex::new(Phase::Starting), killer, state, terminal, aborted: AtomicI32::new(0) }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn guest(&self) -> Option<Arc<Guest>> {
        match &*self.phase() {
            Phase::Created(guest) | Phase::Executing(guest, _) | Phase::Running(guest) => Some(guest.clone()),
            Phase::Starting | Phase::Ended(_) => None,
        }
    }

    /// The container was executed: it gets what has come meanwhile.
    fn executed(&self) {
        let mut phase = self.phase();
        if let Phase::Executing(guest, pending) = &mut *phase {
            let (guest, pending) = (guest.clone(), std::mem::take(pending));
            *phase = Phase::Running(guest);
            drop(phase);
            pending.into_iter().for_each(|signal| self.handle(signal));
        }
    }

    fn handle(&self, signal: i32) {
        let mut phase = self.phase();
        let (guest, created) = match &mut *phase {
            Phase::Starting if is_request_to_end(signal) => {
                self.aborted.store(signal, Ordering::Release);
                return self.killer.kill();
            }
            Phase::Ended(outputs) if is_request_to_end(signal) => return outputs.abandon(),
            Phase::Starting | Phase::Ended(_) => return,
            Phase::Executing(_, pending) if signal != libc::SIGWINCH => {
                if pending.len() < PENDING_LIMIT {
                    pending.push(signal);
                }
                return;
            }
            Phase::Created(guest) => (guest.clone(), true),
            Phase::Executing(guest, _) | Phase::Running(guest) => (guest.clone(), false),
        };
        // Not held while the guest answers.
        drop(phase);
        // An error means that the container has ended, or that its guest has: others see that too.
        let _ = match self.terminal.as_ref().and_then(Terminal::size) {
            Some(size) if signal == libc::SIGWINCH => guest.resize(size),
            _ if created && is_request_to_end(signal) && self.waits_for_start() => {
                guest.signal(libc::SIGKILL as u32, false)
            }
            _ => guest.signal(signal.unsigned_abs(), false),
        };
    }

    /// What waits for `start` handles no signal, and the first process of a pid namespace is not ended by one that it does not
    /// handle.
    fn waits_for_start(&self) -> bool {
        state::record_in(self.state.as_fd()).is_some_and(|record| record.status == Status::Created)
    }
}

#[cfg(test)]
mod tests;
