//! The process behind a container's pid: it starts the monitor, carries the streams, waits for the container's end and ends the
//! same way. `create`, `run` and `exec` start it; it outlives the first of them.
//!
//! It is this program under the container's command line, so that `ps` shows what runs; a variable of its environment says what it
//! is. Callers wait for it, look up its cgroup and its namespaces, and send it signals.

mod container;
mod exec;
pub(crate) mod lending;
pub mod network;
pub(crate) mod oom;
pub mod process;
pub mod protocol;
pub(crate) mod wards;
mod warnings;

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use crate::signals::Signals;
use crate::sys;
use protocol::{Channel, fds};

/// Environment variable: this process is a proxy.
pub const ROLE_VARIABLE: &str = "SANDBOX_ROLE";

/// What a proxy stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A container.
    Container,
    /// One more process in a container.
    Exec,
    /// One that the guest's OOM killer has ended.
    Victim,
}

impl Role {
    /// The variable's value.
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Exec => "exec",
            Self::Victim => "victim",
        }
    }

    /// What this process's environment says.
    pub fn of_this_process() -> Option<Self> {
        let word = std::env::var(ROLE_VARIABLE).ok()?;
        [Self::Container, Self::Exec, Self::Victim].into_iter().find(|role| role.word() == word)
    }
}

/// What a proxy starts with.
#[derive(Debug)]
pub(crate) struct Inherited {
    channel: Channel,
    state: OwnedFd,
    lock: OwnedFd,
    console: Option<OwnedFd>,
    preserved: Vec<OwnedFd>,
}

impl Inherited {
    fn take() -> Option<Self> {
        let channel = Channel::new(UnixStream::from(sys::inherited(fds::COMMAND)?));
        let (state, lock) = (sys::inherited(fds::STATE)?, sys::inherited(fds::LOCK)?);
        let console = sys::inherited(fds::CONSOLE);
        let preserved = (fds::PRESERVED..).map_while(sys::inherited).collect();
        Some(Self { channel, state, lock, console, preserved })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(u8),
    /// By a signal.
    Killed(i32),
}

impl End {
    /// As the agent says it, which a hostile guest's may say of any signal: those that stop a process would stop this one for ever.
    pub fn new(exit_status: u32, signal: u32) -> Self {
        match i32::try_from(signal) {
            Ok(libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => Self::Exited(u8::MAX),
            Ok(signal @ 1..=64) => Self::Killed(signal),
            _ => Self::Exited(u8::try_from(exit_status).unwrap_or(u8::MAX)),
        }
    }

    /// Ends this process the same way, as far as that is possible.
    fn imitate(self) -> ExitCode {
        match self {
            Self::Exited(status) => ExitCode::from(status),
            Self::Killed(signal) => {
                // The container's memory is not in this process: its image would tell nobody anything. (A program that takes images, as
                // core_pattern can name one, is given them whatever the limit for files is.)
                let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
                sys::die_by(signal);
                ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
            }
        }
    }
}

/// What the kernel calls a process that executes this program (and cuts to 15 bytes). By itself it would be the name of the link by
/// which this program is executed anew.
fn name_of(program: &OsStr) -> Option<CString> {
    CString::new(Path::new(program).file_name()?.as_bytes()).ok()
}

/// Runs a proxy to its end.
pub fn main(role: Role) -> ExitCode {
    let run = match role {
        Role::Container => container::run,
        Role::Exec => exec::run,
        Role::Victim => return oom::die(),
    };
    let Some(inherited) = Inherited::take() else {
        eprintln!("sandbox: {ROLE_VARIABLE} is for processes that sandbox starts itself; unset it");
        return ExitCode::FAILURE;
    };
    let program = std::env::args_os().next().and_then(|program| name_of(&program));
    // It is of use to people only.
    let _ = program.map(|name| rustix::thread::set_name(&name));
    // Held back from the first instruction on: what comes before the container is there is handled then.
    let Ok(signals) = Signals::hold() else { return ExitCode::FAILURE };
    run(inherited, signals).imitate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (program, name) in
            [("/bin/sh", Some(c"sh")), ("sleep", Some(c"sleep")), ("./a b", Some(c"a b")), ("", None)]
        {
            assert_eq!(name_of(OsStr::new(program)).as_deref(), name);
        }
    }

    #[test]
    fn ends() {
        assert_eq!(End::new(3, 0), End::Exited(3));
        assert_eq!(End::new(137, 9), End::Killed(9));
        assert_eq!(End::new(4096, 0), End::Exited(255));
        assert_eq!(End::new(1, 65), End::Exited(1));
        for signal in 19..=22 {
            assert_eq!(End::new(0, signal), End::Exited(255));
        }
        assert_eq!(End::new(1, u32::MAX), End::Exited(1));
    }
}
