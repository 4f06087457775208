//! `sandbox create`: from a bundle to a container that waits for `start`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::Pid;

use super::foreground::Foreground;
use super::handover::{self, Handover};
use super::prepare::{self, Prepared};
use super::{CommandError, Guests, delete};
use crate::cgroup::{self, HostCgroup, Overhead};
use crate::hooks::{self, Phase, Surroundings};
use crate::images::Images;
use crate::log::Log;
use crate::preserved::Preserved;
use crate::process_id::ProcessId;
use crate::proxy::Role;
use crate::proxy::process::{Inputs, ProxyError, ProxyProcess};
use crate::proxy::protocol::{FromProxy, ToProxy};
use crate::settings::Settings;
use crate::state::{ContainerId, Record, StateDir, Status};
use crate::sys::{Streams, now_ns};
use crate::trace::Trace;

/// What to make, and with what.
#[derive(Debug)]
pub struct Options {
    /// The container's name.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Where state is kept.
    pub root: PathBuf,
    /// Where errors go.
    pub log: Log,
    /// The configuration file's.
    pub settings: Settings,
    /// The guest's kernel and initramfs, where they are not the usual ones.
    pub guest: Guests,
    /// Who gets to know of the process.
    pub handover: Handover,
    /// Descriptors for the container.
    pub preserved: Vec<Preserved>,
    /// The container gets no session keyring of its own.
    pub no_new_keyring: bool,
    /// cgroupsPath has systemd's form.
    pub systemd_cgroup: bool,
    /// When this process started, by CLOCK_MONOTONIC.
    pub start_ns: u64,
}

/// Makes a container.
pub fn create(options: &Options) -> Result<(), CommandError> {
    make(options, None)?.proxy.tell(&ToProxy::Detach)?;
    Ok(())
}

/// A container that was made, with what its command still holds.
pub(super) struct Made {
    /// Where its state is; locked.
    pub state: StateDir,
    /// Its state.
    pub record: Record,
    /// Its process on the host.
    pub proxy: ProxyProcess,
    /// Where its terminal comes from, if the command takes it.
    pub console: Option<UnixStream>,
}

/// Makes a container, for a command that waits for its end if there is a foreground. All checks that need no guest come before
/// anything is made.
pub(super) fn make(options: &Options, mut foreground: Option<&mut Foreground>) -> Result<Made, CommandError> {
    let reading = now_ns();
    let id = ContainerId::new(&options.id)?;
    let mut prepared = prepare::prepare(options, &id)?;
    let terminal = prepared.order.terminal;
    let (ours, console) = match &mut foreground {
        Some(foreground) => foreground.console(&options.handover, terminal)?,
        None => (None, options.handover.console(terminal)?),
    };
    if let Some(foreground) = &foreground {
        prepared.order.size = foreground.size().or(prepared.order.size);
        prepared.order.attached = true;
    }
    Images::check_access()?;
    // A place that cannot be written is an error before anything starts.
    drop(Trace::from_environment(options.start_ns)?);
    prepared.order.preserved = options.preserved.iter().map(|one| one.place).collect();
    prepared.order.started_ns = [options.start_ns, reading, now_ns()];
    let state = StateDir::create(&options.root, &id)?;
    log::debug!("state directory {} is made", options.root.join(id.as_str()).display());
    match begin(options, prepared, &id, &state, console, foreground) {
        Ok((record, proxy)) => Ok(Made { state, record, proxy, console: ours }),
        Err(error) => {
            // Nobody can ask for it: it was never made.
            if let Some(record) = state.read()? {
                delete::clear_up(&options.root, &record)?;
            }
            state.remove()?;
            Err(error)
        }
    }
}

/// Starts the container's process on the host and has it make the container.
fn begin(
    options: &Options,
    prepared: Prepared,
    id: &ContainerId,
    state: &StateDir,
    console: Option<OwnedFd>,
    foreground: Option<&mut Foreground>,
) -> Result<(Record, ProxyProcess), CommandError> {
    let process = prepared.bundle.spec.process().as_ref();
    let streams = match (prepared.order.terminal, prepared.order.attached) {
        (false, _) => Streams::Inherited,
        (true, true) => Streams::Stderr,
        (true, false) => Streams::Null,
    };
    let mut proxy = ProxyProcess::spawn(&Inputs {
        role: Role::Container,
        arguments: process.and_then(|process| process.args().as_deref()).unwrap_or_default(),
        streams,
        state: state.directory(),
        lock: state.held_lock(),
        console: console.as_ref().map(AsFd::as_fd),
        preserved: &options.preserved,
    })?;
    drop(console);
    let followed = match foreground.map_or(Ok(()), |foreground| foreground.forward(proxy.handle())) {
        Ok(()) => follow(options, prepared, id, state, &mut proxy),
        Err(error) => Err(error),
    };
    match followed {
        Ok(record) => Ok((record, proxy)),
        Err(error) => {
            proxy.abort();
            Err(error)
        }
    }
}

fn follow(
    options: &Options,
    prepared: Prepared,
    id: &ContainerId,
    state: &StateDir,
    proxy: &mut ProxyProcess,
) -> Result<Record, CommandError> {
    let Prepared { bundle, machine, order, hooks: host_hooks, turn: _turn } = prepared;
    let rootfs = order.shares.first().map(|share| share.source.clone()).unwrap_or_default();
    let mut record = Record::new(id, &bundle.spec, bundle.directory, rootfs, proxy.id());
    record.attached = order.attached;
    record.joined = order.joined.as_ref().map(|owner| owner.id.clone());
    record.start_seconds = order.hook_seconds.start;
    log::debug!("the container's process on the host is {}", proxy.id().pid);
    let pid = Pid::from_raw(proxy.id().pid).ok_or(ProxyError::Gone)?;
    let overhead = Overhead::of(&bundle.spec, &machine);
    let planned = cgroup::Planned::new(&bundle.spec, id.as_str(), options.systemd_cgroup, overhead)?;
    record.cgroup = planned.remains();
    state.write(&record)?;
    record.cgroup = Some(planned.make(&bundle.spec, id.as_str(), pid)?);
    log::debug!("cgroup on the host: {:?}", record.cgroup.as_ref().map(HostCgroup::paths).unwrap_or_default());
    state.write(&record)?;
    proxy.tell(&ToProxy::Container(Box::new(order)))?;
    // The guest boots meanwhile.
    if let FromProxy::Placed { monitor } = proxy.listen()? {
        record.monitor = ProcessId::of(monitor);
        log::debug!("the monitor is process {monitor}, and the guest boots");
        state.write(&record)?;
    }
    let shown = record.shown_json();
    for phase in [Phase::Prestart, Phase::CreateRuntime] {
        let list = bundle.spec.hooks().as_ref().map(|hooks| phase.of(hooks)).unwrap_or_default();
        hooks::run_all(phase, list, shown.as_bytes(), Surroundings::at(&record.bundle))?;
    }
    if !host_hooks.is_empty() {
        let network = File::open(format!("/proc/{}/ns/net", proxy.id().pid))
            .map_err(CommandError::io("open the container's network namespace"))?;
        let surroundings = Surroundings { network: Some(network.as_fd()), directory: Some(&record.rootfs) };
        hooks::run_all(Phase::CreateContainer, &host_hooks, shown.as_bytes(), surroundings)?;
    }
    proxy.tell(&ToProxy::Proceed { state: shown })?;
    proxy.expect(&FromProxy::Ready)?;
    log::debug!("the guest has made the container");
    record.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.limit_cpu_time(&bundle.spec))?;
    record.status = Status::Created;
    state.write(&record)?;
    handover::tell(&options.handover, proxy)?;
    Ok(record)
}
