//! `sandbox create`: from a bundle to a container that waits for `start`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::CommandError;
use crate::bundle::Bundle;
use crate::console;
use crate::guest_files::GuestFiles;
use crate::machine::Machine;
use crate::process_id::ProcessId;
use crate::proxy::Role;
use crate::proxy::process::{Inputs, ProxyProcess};
use crate::proxy::protocol::{ContainerOrder, FromProxy, Network, Size, ToProxy};
use crate::share::{self, Plan};
use crate::state::{ContainerId, Record, StateDir, Status};
use crate::sys::{Streams, now_ns};
use crate::terminal::Terminal;
use crate::trace::Trace;

/// What to make, and with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The container's name.
    pub id: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Where state is kept.
    pub root: PathBuf,
    /// The guest's kernel and initramfs.
    pub guest: GuestFiles,
    /// Gets the pid.
    pub pid_file: Option<PathBuf>,
    /// Takes the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Takes a handle of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Descriptors for the container.
    pub preserve_fds: u32,
    /// When this process started, by CLOCK_MONOTONIC.
    pub start_ns: u64,
}

/// Makes a container.
pub fn create(options: &Options) -> Result<(), CommandError> {
    let mut made = make(options, None)?;
    made.proxy.tell(&ToProxy::Detach)?;
    Ok(())
}

/// A container that was made, with what its command still holds.
pub(super) struct Made {
    /// Where its state is.
    pub state: StateDir,
    /// Its state.
    pub record: Record,
    /// Its process on the host.
    pub proxy: ProxyProcess,
    /// Of its terminal, if the command keeps it.
    pub console: Option<UnixStream>,
}

/// A command that waits for the container's end.
pub(super) struct Attached<'a> {
    /// Its own terminal, if the container has one.
    pub terminal: Option<Terminal>,
    /// Called as soon as there is a process that signals are for.
    pub started: &'a mut dyn FnMut(&ProxyProcess) -> Result<(), CommandError>,
}

/// All checks that need no guest come before anything is made.
pub(super) fn make(options: &Options, attached: Option<Attached<'_>>) -> Result<Made, CommandError> {
    let reading = now_ns();
    let id = ContainerId::new(&options.id)?;
    let bundle = Bundle::load(&options.bundle)?;
    make_of(options, &id, &bundle, attached, reading)
}

/// The same with a bundle that was read before.
pub(super) fn make_of(
    options: &Options,
    id: &ContainerId,
    bundle: &Bundle,
    attached: Option<Attached<'_>>,
    reading: u64,
) -> Result<Made, CommandError> {
    if options.preserve_fds > 0 {
        return Err(CommandError::PreserveFds(options.preserve_fds));
    }
    let machine = Machine::of(&bundle.spec)?;
    let plan = share::plan(&bundle.spec, &bundle.directory, id.as_str())?;
    let (ours, console) = consoles(options, bundle.wants_terminal(), attached.is_some())?;
    drop(Trace::from_environment(options.start_ns)?);
    let state = StateDir::create(&options.root, id)?;
    let order = order(options, id, bundle, machine, plan, attached.as_ref(), reading);
    match begin(options, bundle, order, &state, console, attached) {
        Ok((record, proxy)) => Ok(Made { state, record, proxy, console: ours }),
        Err(error) => {
            // Nobody can ask for it: it was never made.
            state.remove()?;
            Err(error)
        }
    }
}

/// Starts the container's process on the host and has it make the container.
fn begin(
    options: &Options,
    bundle: &Bundle,
    order: ContainerOrder,
    state: &StateDir,
    console: Option<OwnedFd>,
    attached: Option<Attached<'_>>,
) -> Result<(Record, ProxyProcess), CommandError> {
    let arguments = bundle.spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    let streams = match (order.terminal, order.attached) {
        (false, _) => Streams::Inherited,
        (true, true) => Streams::Stderr,
        (true, false) => Streams::Null,
    };
    let mut proxy = ProxyProcess::spawn(&Inputs {
        role: Role::Container,
        arguments: &arguments,
        streams,
        state: state.directory(),
        lock: state.held_lock(),
        console: console.as_ref().map(AsFd::as_fd),
    })?;
    drop(console);
    match follow(options, bundle, order, state, &mut proxy, attached) {
        Ok(record) => Ok((record, proxy)),
        Err(error) => {
            proxy.abort();
            Err(error)
        }
    }
}

fn follow(
    options: &Options,
    bundle: &Bundle,
    order: ContainerOrder,
    state: &StateDir,
    proxy: &mut ProxyProcess,
    attached: Option<Attached<'_>>,
) -> Result<Record, CommandError> {
    let id = ContainerId::new(&options.id)?;
    let rootfs = order.shares.first().map(|share| share.source.clone()).unwrap_or_default();
    let mut record = Record::new(&id, &bundle.spec, bundle.directory.clone(), rootfs, proxy.id());
    record.attached = order.attached;
    state.write(&record)?;
    if let Some(attached) = attached {
        (attached.started)(proxy)?;
    }
    proxy.tell(&ToProxy::Container(Box::new(order)))?;
    if let FromProxy::Placed { monitor } = proxy.listen()? {
        record.monitor = ProcessId::of(monitor);
        state.write(&record)?;
    }
    let shown =
        serde_json::to_string(&record.shown()).map_err(|error| CommandError::io("write the state")(error.into()))?;
    proxy.tell(&ToProxy::Proceed { state: shown })?;
    proxy.expect(&FromProxy::Ready)?;
    record.status = Status::Created;
    state.write(&record)?;
    if let Some(path) = &options.pidfd_socket {
        console::send_to(path, proxy.handle().as_fd(), b"pidfd").map_err(CommandError::file("--pidfd-socket", path))?;
    }
    if let Some(path) = &options.pid_file {
        write_pid(path, proxy.id().pid).map_err(CommandError::file("--pid-file", path))?;
    }
    Ok(record)
}

fn order(
    options: &Options,
    id: &ContainerId,
    bundle: &Bundle,
    machine: Machine,
    plan: Plan,
    attached: Option<&Attached<'_>>,
    reading: u64,
) -> ContainerOrder {
    let network = Network::of(&bundle.spec);
    let own = attached.and_then(|attached| attached.terminal.as_ref()).and_then(Terminal::window);
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    ContainerOrder {
        id: id.to_string(),
        network,
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
        kernel: absolute(&options.guest.kernel),
        initramfs: absolute(&options.guest.initramfs),
        root: absolute(&options.root),
        shares: plan.shares,
        spec: serde_json::to_string(&for_guest(plan.spec)).unwrap_or_default(),
        terminal: bundle.wants_terminal(),
        size: own.or_else(|| configured_size(bundle.spec.process().as_ref())),
        attached: attached.is_some(),
        started_ns: [options.start_ns, reading, now_ns()],
    }
}

/// The network namespace that the configuration names is the host side's: the guest has a network of its own.
fn for_guest(mut spec: Spec) -> Spec {
    let Some(mut linux) = spec.linux().clone() else { return spec };
    if let Some(namespaces) = linux.namespaces_mut() {
        for namespace in namespaces.iter_mut().filter(|namespace| namespace.typ() == LinuxNamespaceType::Network) {
            namespace.set_path(None);
        }
    }
    spec.set_linux(Some(linux));
    spec
}

fn configured_size(process: Option<&Process>) -> Option<Size> {
    let size = process?.console_size()?;
    let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
    (rows != 0 && columns != 0).then_some(Size { rows, columns })
}

/// The two ends of what carries the terminal's master: this command's, where it waits for the container, and the proxy's.
fn consoles(
    options: &Options,
    terminal: bool,
    attached: bool,
) -> Result<(Option<UnixStream>, Option<OwnedFd>), CommandError> {
    match (&options.console_socket, terminal) {
        (Some(_), false) => Err(CommandError::NoTerminal),
        (Some(path), true) => {
            let socket = UnixStream::connect(path).map_err(CommandError::file("--console-socket", path))?;
            Ok((None, Some(socket.into())))
        }
        (None, true) if attached => {
            let (ours, theirs) = UnixStream::pair().map_err(CommandError::io("make a socket pair"))?;
            Ok((Some(ours), Some(theirs.into())))
        }
        (None, true) => Err(CommandError::NoConsoleSocket),
        (None, false) => Ok((None, None)),
    }
}

/// Writes a pid-file whole or not at all. Callers parse all of it: no newline.
pub(super) fn write_pid(path: &Path, pid: i32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let new = path.with_file_name(hidden);
    let _ = fs::remove_file(&new);
    let write = |mut file: File| file.write_all(pid.to_string().as_bytes());
    let open = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new);
    open.and_then(write).and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pid_files_have_no_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "old").unwrap();
        write_pid(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write_pid(Path::new("/nonexistent/pid"), 1).is_err());
    }

    #[test]
    fn the_guest_has_its_own_network() {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"namespaces":
            [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]}});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(Network::of(&spec), Network::Path("/run/netns/x".into()));
        let spec = for_guest(spec);
        assert_eq!(Network::of(&spec), Network::New);
        assert_eq!(spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 2);
    }
}
