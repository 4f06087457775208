//! Both ends of a process's streams: the host's, which are claimed by token, and the agent's side of pipes and terminal.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use agent_protocol::agent::{Stdio, TerminalSize};
use rustix::fs::{Mode, OFlags, Uid, fchown};
use rustix::termios::Winsize;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio_vsock::VsockStream;

use super::{Error, preserved};
use crate::agent::Agent;
use crate::reaper::Exit;
use crate::spec::ProcessPlan;
use crate::stdio::{self, Sent};

/// The host's side of stdio.
pub struct Streams {
    pipes: [Option<VsockStream>; 3],
    terminal: Option<VsockStream>,
    preserved: Vec<preserved::Claimed>,
}

impl Streams {
    /// Waits for all streams that the request names.
    pub async fn claim(agent: &Agent, stdio: &Stdio) -> Result<Streams, Error> {
        let claim = async |token| match token {
            0 => Ok(None),
            token => agent.streams.claim(token).await.map(Some),
        };
        let (input, output, error, terminal, preserved) = tokio::try_join!(
            claim(stdio.stdin_token),
            claim(stdio.stdout_token),
            claim(stdio.stderr_token),
            claim(stdio.terminal_token),
            preserved::claim(agent, &stdio.preserved)
        )?;
        Ok(Streams { pipes: [input, output, error], terminal, preserved })
    }
}

/// Refuses tokens that do not fit the process.
pub fn check(stdio: &Stdio, terminal: bool) -> Result<(), Error> {
    preserved::check(&stdio.preserved)?;
    let pipes = [stdio.stdin_token, stdio.stdout_token, stdio.stderr_token];
    match (terminal, stdio.terminal_token != 0, pipes.iter().any(|t| *t != 0)) {
        (true, _, true) => Err(Error::Stdio("a process with a terminal has no other streams")),
        (false, true, _) => Err(Error::Stdio("terminal_token is set, and process.terminal is not")),
        _ => Ok(()),
    }
}

/// The agent's side of a process's pipes.
#[derive(Default)]
pub struct Ends {
    input: Option<pipe::Sender>,
    outputs: [Option<pipe::Receiver>; 2],
    preserved: Vec<preserved::End>,
}

/// The process's side.
pub struct Inherited {
    /// Standard input, output and error; unused with a terminal.
    pub stdio: [OwnedFd; 3],
    /// By the number that the process is to have them under.
    pub preserved: Vec<preserved::Placed>,
}

impl Inherited {
    /// From here on no number is taken.
    pub fn first_free(&self) -> RawFd {
        preserved::first_free(&self.preserved)
    }
}

impl Ends {
    /// Pipes where there are streams for them, /dev/null elsewhere.
    pub fn open(streams: &Streams, owner: Option<Uid>) -> io::Result<(Ends, Inherited)> {
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let mut ends = Ends::default();
        let own = |fd: OwnedFd| -> io::Result<OwnedFd> {
            // So that the user can open /proc/self/fd/1 anew.
            fchown(&fd, owner, None)?;
            Ok(fd)
        };
        let input = match streams.pipes[0] {
            Some(_) => {
                let (end, inherited) = stdio::input()?;
                ends.input = Some(end);
                own(inherited.0)?
            }
            None => null()?,
        };
        let mut output = |index: usize| -> io::Result<OwnedFd> {
            if streams.pipes[index + 1].is_none() {
                return Ok(null()?);
            }
            let (end, inherited) = stdio::output()?;
            ends.outputs[index] = Some(end);
            own(inherited.0)
        };
        let (out, error) = (output(0)?, output(1)?);
        let (agents, preserved) = preserved::open(&streams.preserved)?;
        ends.preserved = agents;
        preserved.iter().try_for_each(|(_, fd)| fchown(fd, owner, None))?;
        Ok((ends, Inherited { stdio: [input, out, error], preserved }))
    }
}

/// Tells when all output has been sent: at its end, or, with an exit to wait for, when what the process had written by then is.
pub type Flushed = Vec<oneshot::Receiver<()>>;

/// Starts all directions.
pub fn forward(
    ends: Ends,
    streams: Streams,
    master: Option<stdio::Master>,
    exit: Option<watch::Receiver<Option<Exit>>>,
) -> Flushed {
    let mut flushed = Flushed::new();
    let mut sent = || {
        let (sender, receiver) = oneshot::channel();
        flushed.push(receiver);
        Sent::new(sender, exit.clone())
    };
    let [input, out, error] = streams.pipes;
    if let (Some(host), Some(end)) = (input, ends.input) {
        tokio::spawn(stdio::feed(host, end));
    }
    for (end, host) in ends.outputs.into_iter().zip([out, error]) {
        if let (Some(end), Some(host)) = (end, host) {
            tokio::spawn(stdio::drain(end, host, sent()));
        }
    }
    if let (Some(master), Some(host)) = (master, streams.terminal) {
        tokio::spawn(stdio::terminal(master, host, sent()));
    }
    preserved::forward(ends.preserved, streams.preserved, sent);
    flushed
}

/// As the request says, or else the process's own consoleSize.
pub fn first_size(process: &ProcessPlan, given: Option<&TerminalSize>) -> Winsize {
    if let Some(size) = given.filter(|s| s.rows != 0 || s.columns != 0) {
        return winsize(size.rows, size.columns);
    }
    let cut = |n: u64| n.min(u64::from(u16::MAX)) as u32;
    process.given.console_size().map_or(winsize(0, 0), |size| winsize(cut(size.height()), cut(size.width())))
}

/// As the kernel has it.
pub fn winsize(rows: u32, columns: u32) -> Winsize {
    let cut = |n: u32| n.min(u32::from(u16::MAX)) as u16;
    Winsize { ws_row: cut(rows), ws_col: cut(columns), ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fit_the_terminal() {
        let pipes = Stdio { stdout_token: 1, ..Default::default() };
        let terminal = Stdio { terminal_token: 1, ..Default::default() };
        assert!(check(&pipes, false).is_ok());
        assert!(check(&pipes, true).is_err());
        assert!(check(&terminal, true).is_ok());
        assert!(check(&terminal, false).is_err());
        assert!(check(&Stdio::default(), true).is_ok());
    }
}
