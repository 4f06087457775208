//! The proxy of an exec'd process.

use std::env;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::container::{FAILED, open_terminal};
use super::network::join;
use super::protocol::{Channel, ExecOrder, FromProxy, ToProxy};
use super::wards::Ward;
use super::{End, Inherited, oom};
use crate::guest::{ExecPlace, Guest, connect_stdio};
use crate::preserved::{self, Preserved};
use crate::rpc::RpcError;
use crate::session::SessionError;
use crate::signals::{Signals, is_request_to_end};
use crate::state;
use crate::stdio::{self, Outputs};
use crate::terminal::Terminal;

/// Signals kept for a process that is about to be executed.
const PENDING_LIMIT: usize = 64;

/// Runs the process to its end.
pub(super) fn run(inherited: Inherited, signals: Signals) -> End {
    let Inherited { mut channel, state, lock, console, preserved } = inherited;
    let Ok(sender) = channel.sender() else { return FAILED };
    let Ok(Some(ToProxy::Exec(order))) = channel.receive() else { return FAILED };
    drop(lock);
    let preserved = preserved::placed(&order.preserved, preserved);
    match follow(*order, signals, channel, &state, Given { console, preserved }) {
        Ok(end) => end,
        Err(error) => {
            let _ = sender.send(&FromProxy::Failed { message: error.to_string(), status: error.exit_status() });
            FAILED
        }
    }
}

/// What the process is to have.
struct Given {
    console: Option<OwnedFd>,
    preserved: Vec<Preserved>,
}

fn follow(
    order: ExecOrder,
    signals: Signals,
    channel: Channel,
    state: &OwnedFd,
    given: Given,
) -> Result<End, SessionError> {
    env::set_current_dir("/").map_err(SessionError::setup("the working directory"))?;
    let _ = fs::read_to_string(format!("/proc/{}/oom_score_adj", order.container_pid)).map(|score| oom::score(&score));
    let network = format!("/proc/{}/ns/net", order.container_pid);
    join(Path::new(&network)).map_err(SessionError::setup("the network namespace"))?;
    let Given { console, preserved } = given;
    let terminal = console.map(|console| open_terminal(order.size, &console)).transpose()?;
    let passed = Arc::new(Passed { phase: Mutex::new(Phase::Starting(Vec::new())), terminal: terminal.clone() });
    let handler = passed.clone();
    signals.listen(move |signal| handler.handle(signal)).map_err(SessionError::setup("signals"))?;

    let socket = state::socket_in(state.as_fd());
    let guest = Arc::new(Guest::reach(&socket, &order.id)?.of_process(&order.exec_id));
    let connect = move |token| connect_stdio(&socket, token);
    let streams = || {
        let started = stdio::start(terminal.as_ref().map(Terminal::duplicate).transpose()?, preserved, connect, || {})?;
        stdio::let_go().map(|()| started)
    };
    let (mut stdio, outputs) = streams().map_err(SessionError::setup("stdin, stdout and stderr"))?;
    stdio.terminal_size = terminal.as_ref().and_then(Terminal::size).into();
    let ward =
        Ward::new(state.as_fd(), &order.exec_id).map_err(SessionError::setup("what watches over the process"))?;

    let place = ExecPlace { sub_cgroup: order.sub_cgroup, ignore_paused: order.ignore_paused };
    if let Err(error) = guest.exec(order.process, stdio, place) {
        // One that the agent does not speak of may come yet.
        if matches!(error, RpcError::Status { .. }) {
            ward.release();
        }
        return Err(error.into());
    }
    let sender = channel.sender().map_err(SessionError::setup("the control socket"))?;
    passed.executed(&guest);
    obey(channel, guest.clone())?;
    // A command that is gone by now is noticed by the thread that listens to it.
    let _ = sender.send(&FromProxy::Ready);
    let ended = guest.wait()?;
    ward.release();
    passed.set(Phase::Ended(outputs.clone()));
    outputs.wait();
    state::execs::remove(state.as_fd(), std::process::id() as i32);
    Ok(End::new(ended.exit_status, ended.signal))
}

/// Follows the command on a thread: while it waits for the process, its own end is the process's.
fn obey(mut channel: Channel, guest: Arc<Guest>) -> Result<(), SessionError> {
    let follow = move || match channel.receive() {
        Ok(Some(ToProxy::Detach)) => {}
        _ => drop(guest.signal(9, false)),
    };
    let spawned = thread::Builder::new().name("command".to_string()).spawn(follow);
    spawned.map(drop).map_err(SessionError::setup("the control socket"))
}

/// What a signal means just now.
enum Phase {
    /// The process is about to be executed, and gets the signals afterwards.
    Starting(Vec<i32>),
    /// The process gets the signals.
    Running(Arc<Guest>),
    /// The process has ended; what is left is its output.
    Ended(Outputs),
}

/// What the signals' thread shares with the others.
struct Passed {
    phase: Mutex<Phase>,
    terminal: Option<Terminal>,
}

impl Passed {
    fn set(&self, phase: Phase) -> Phase {
        std::mem::replace(&mut *self.phase.lock().unwrap_or_else(PoisonError::into_inner), phase)
    }

    fn executed(&self, guest: &Arc<Guest>) {
        if let Phase::Starting(pending) = self.set(Phase::Running(guest.clone())) {
            // The size may have changed while nobody looked.
            let resized = self.terminal.is_some().then_some(libc::SIGWINCH);
            resized.into_iter().chain(pending).for_each(|signal| self.handle(signal));
        }
    }

    fn handle(&self, signal: i32) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let guest = match &mut *phase {
            Phase::Starting(pending) if pending.len() < PENDING_LIMIT => return pending.push(signal),
            Phase::Ended(outputs) if is_request_to_end(signal) => return outputs.abandon(),
            Phase::Starting(_) | Phase::Ended(_) => return,
            Phase::Running(guest) => guest.clone(),
        };
        // Not held while the guest answers.
        drop(phase);
        // An error means that the process has ended: others see that too.
        let _ = match self.terminal.as_ref().and_then(Terminal::size) {
            Some(size) if signal == libc::SIGWINCH => guest.resize(size),
            _ => guest.signal(signal.unsigned_abs(), false),
        };
    }
}
