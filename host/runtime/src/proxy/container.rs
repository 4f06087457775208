//! The proxy of a container: follows what `create` or `run` says until that has ended.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, ioctl_tiocsctty, setrlimit};

use super::protocol::{Channel, ContainerOrder, FromProxy, Network, Sender, Size, ToProxy};
use super::warnings::Warnings;
use super::{End, Inherited, oom, wards};
use crate::blocks;
use crate::console::{self, Pty};
use crate::guest_files::GuestFiles;
use crate::images::Images;
use crate::log::Log;
use crate::network::devices::Moving;
use crate::preserved;
use crate::session::{Session, SessionError};
use crate::signals::Signals;
use crate::state;
use crate::stdio;
use crate::sys::Streams;
use crate::terminal::Terminal;
use crate::trace::{Lane, Trace};

/// The status where the container has none: its guest failed, or it was never made.
pub(super) const FAILED: End = End::Exited(255);

/// Runs the container to its end.
pub(super) fn run(inherited: Inherited, signals: Signals) -> End {
    let Inherited { mut channel, state, lock, console, preserved } = inherited;
    let Ok(sender) = channel.sender() else { return FAILED };
    // A command that is gone before it gave its order needs nothing.
    let Ok(Some(ToProxy::Container(order))) = channel.receive() else { return FAILED };
    let Ok(directory) = state.try_clone() else { return FAILED };
    let (log, alone) = (order.log.clone(), Arc::new(AtomicBool::new(false)));
    let Ok(warnings) = channel.sender().map(|command| Warnings::begin(command, log.clone())) else { return FAILED };
    match follow(*order, signals, Parts { channel, state, lock, console, preserved, warnings, alone: alone.clone() }) {
        Ok(end) => end,
        Err(error) => {
            let failed = FromProxy::Failed { message: error.to_string(), status: error.exit_status() };
            if alone.load(Ordering::Acquire) || sender.send(&failed).is_err() {
                leave(&error.to_string(), &log, &directory);
            }
            FAILED
        }
    }
}

/// Tells those who come later why the container ended. There is nobody to whom a failure could be told.
fn leave(sentence: &str, log: &Log, state: &OwnedFd) {
    let _ = log.keep(::log::Level::Error, sentence);
    let _ = state::keep_reason(state.as_fd(), sentence);
}

struct Parts {
    channel: Channel,
    state: OwnedFd,
    lock: OwnedFd,
    console: Option<OwnedFd>,
    preserved: Vec<OwnedFd>,
    warnings: &'static Warnings,
    /// Set once the command is gone, and the container goes on.
    alone: Arc<AtomicBool>,
}

/// One thread until the network namespace is entered: others would stay behind.
fn follow(order: ContainerOrder, signals: Signals, parts: Parts) -> Result<End, SessionError> {
    let Parts { channel, state, lock, console, preserved, warnings, alone } = parts;
    let sender = channel.sender().map_err(SessionError::setup("the control socket"))?;
    let [started, reading, read] = order.started_ns;
    let trace = Arc::new(Trace::from_environment(started)?);
    trace.span(Lane::Command, "read config", reading, read);
    trace.at(Lane::Command, "config read", read);
    raise_descriptors();
    if let Some(score) = order.oom_score {
        oom::score(&score.to_string());
    }
    // The bundle's file system can be unmounted while this runs.
    env::set_current_dir("/").map_err(SessionError::setup("the working directory"))?;
    let devices = Moving::from_here(order.network_devices.clone())?;
    order.network.enter()?;
    devices.arrive()?;
    let terminal = console.map(|console| open_terminal(order.size, &console)).transpose()?;
    let streams =
        if order.attached || env::var_os("SANDBOX_CONSOLE").is_some() { Streams::Stderr } else { Streams::Null };
    let session = match &order.joined {
        Some(owner) => Session::join(&order.id, state, (&order.root, owner), streams, terminal, trace.clone())?,
        None => {
            let files = GuestFiles { kernel: order.kernel.clone(), initramfs: order.initramfs.clone() };
            let images = Images::open(&files, &order.root)?;
            let blocks = blocks::open(&order.blocks)?;
            Session::start(&order.id, state, (&images, blocks), streams, terminal, trace.clone())?
        }
    };
    let session = Arc::new(session);
    if order.network != Network::Host && !order.shares_network {
        session.join_network(order.vcpus, order.joined.as_ref().map(|owner| (order.root.as_path(), owner)))?;
    }
    session.listen(signals)?;
    session.boot(&order)?;
    wards::watch(&order.id, &session).map_err(SessionError::setup("what watches over exec'd processes"))?;
    send(&sender, &FromProxy::Placed { monitor: session.monitor_pid() })?;
    let proceed = obey(session.clone(), channel, lock, alone)?;
    let preserved = preserved::placed(&order.preserved, preserved);
    let result = session.run(order, preserved, &proceed, || {
        stdio::let_go().map_err(SessionError::setup("stdin, stdout and stderr"))?;
        warnings.made();
        send(&sender, &FromProxy::Ready)
    });
    trace.now(Lane::Command, "cleaned up");
    let written = trace.write();
    let end = result?;
    written?;
    Ok(end)
}

/// A connection for each exec'd process, and two for one to a socket of the host, are more than many callers' limit, which is 1024.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised is what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn send(sender: &Sender, event: &FromProxy) -> Result<(), SessionError> {
    sender.send(event).map_err(SessionError::setup("the control socket"))
}

/// A terminal whose master goes to whoever asked for the process.
pub(super) fn open_terminal(size: Option<Size>, console: &OwnedFd) -> Result<Terminal, SessionError> {
    let open = || {
        let pty = Pty::open(size)?;
        // From now on the kernel tells this process of the terminal's size and its end.
        ioctl_tiocsctty(&pty.slave)?;
        console::send(console.as_fd(), pty.master.as_fd(), pty.name.as_bytes())?;
        Ok(Terminal::new(pty.slave))
    };
    open().map_err(SessionError::setup("the terminal"))
}

/// Follows the command on a thread; gives what the guest's hooks get when the host has done its part.
fn obey(
    session: Arc<Session>,
    mut channel: Channel,
    lock: OwnedFd,
    alone: Arc<AtomicBool>,
) -> Result<Receiver<String>, SessionError> {
    let (proceed, proceeds) = mpsc::channel();
    let sender = channel.sender().map_err(SessionError::setup("the control socket"))?;
    let mut lock = Some(lock);
    let follow = move || {
        loop {
            match channel.receive() {
                Ok(Some(ToProxy::Proceed { state })) => drop(proceed.send(state)),
                Ok(Some(ToProxy::Start)) => {
                    lock.take();
                    let event = match session.execute() {
                        Ok(()) => FromProxy::Started,
                        Err(error) => FromProxy::Failed { message: error.to_string(), status: error.exit_status() },
                    };
                    let _ = sender.send(&event);
                }
                // The container is on its own.
                Ok(Some(ToProxy::Detach)) => return alone.store(true, Ordering::Release),
                // The command was killed.
                _ => return session.give_up(),
            }
        }
    };
    thread::Builder::new()
        .name("command".to_string())
        .spawn(follow)
        .map_err(SessionError::setup("the control socket"))?;
    Ok(proceeds)
}
