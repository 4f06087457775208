//! The last steps of every child, be it a container's first process or an exec'd one: streams, terminal, user, program.

use agent_protocol::Plain;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Uid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::ends::Inherited;
use super::hooks;
use super::sync::{ChildChannel, Failure, FromChild, Kind, ToChild};
use crate::mounts;
use crate::process::keyring::Keyring;
use crate::process::{caps, identity, lookup};
use crate::seccomp;
use crate::spec::ProcessPlan;
use crate::sys;

/// Why a child cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {step}: {}", Plain(source))]
    Step { step: String, source: io::Error },
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    #[error(
        "unable to start container process: chdir to cwd ({path:?}) set in config.json failed: {}",
        Plain(&io::Error::from(*errno))
    )]
    WorkingDirectory { path: PathBuf, errno: Errno },
    #[error("config.json: linux.sysctl: {name:?} cannot be set to {value:?}: {}", Plain(source))]
    Sysctl { name: String, value: String, source: io::Error },
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
    #[error(transparent)]
    Hook(#[from] hooks::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Lookup(lookup::Error::NotInPath(_) | lookup::Error::NotFound(_)) => Kind::NotFound,
            Error::WorkingDirectory { errno: Errno::NOENT, .. } => Kind::NotFound,
            Error::Lookup(lookup::Error::Execution { errno: Errno::NOENT, .. }) => Kind::NotFound,
            Error::Lookup(lookup::Error::Denied(_)) => Kind::Denied,
            Error::Lookup(lookup::Error::Execution { errno: Errno::ACCESS | Errno::PERM, .. }) => Kind::Denied,
            Error::Mounts(mounts::Error::InsideProc(_) | mounts::Error::Ordinary { .. }) | Error::Sysctl { .. } => {
                Kind::Invalid
            }
            _ => Kind::Internal,
        };
        Failure { kind, message: error.to_string() }
    }
}

/// Names what was tried.
pub fn step<T, E: Into<io::Error>>(step: &str, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|e| Error::Step { step: step.to_owned(), source: e.into() })
}

/// What the child is to become.
pub struct Program<'a> {
    /// The checked process.
    pub process: &'a ProcessPlan,
    /// The container's filter.
    pub seccomp: Option<&'a seccomp::Program>,
    /// The container's session keyring, unless it is to have the agent's.
    pub keyring: Option<&'a Keyring>,
    /// The container's personality.
    pub personality: Option<u64>,
    /// To the agent.
    pub channel: ChildChannel,
    /// Its descriptors.
    pub inherited: Inherited,
    /// The terminal's first size.
    pub size: Winsize,
}

impl Program<'_> {
    /// Descriptors 0 to 2, and those that are preserved. Gives the master side of a terminal, which `console` shows as /dev/console too.
    pub fn open_stdio(&self, console: bool) -> Result<Option<OwnedFd>, Error> {
        step("start a session", rustix::process::setsid())?;
        for (number, fd) in &self.inherited.preserved {
            step("set up preserved descriptors", sys::dup_onto(fd.as_fd(), *number))?;
        }
        if self.process.terminal() {
            return self.terminal(console).map(Some);
        }
        for (target, fd) in self.inherited.stdio.iter().enumerate() {
            step("set up stdio", sys::dup_onto(fd.as_fd(), target as i32))?;
        }
        Ok(None)
    }

    /// Opens a terminal of the container's own devpts and makes it the controlling one.
    fn terminal(&self, console: bool) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |path: &str| rustix::fs::open(path, flags, Mode::empty());
        let master = step("open a terminal", open("/dev/pts/ptmx").or_else(|_| open("/dev/ptmx")))?;
        step("unlock the terminal", unlockpt(&master))?;
        let pts = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = step("open the terminal's other side", ioctl_tiocgptpeer(&master, pts))?;
        if self.size.ws_col != 0 || self.size.ws_row != 0 {
            step("set the terminal's size", tcsetwinsize(&master, self.size))?;
        }
        let uid = Uid::from_raw(self.process.given.user().uid());
        step("give the terminal to the user", rustix::fs::fchown(&slave, Some(uid), None))?;
        if console {
            show_as_console(&master)?;
        }
        step("take the terminal", rustix::process::ioctl_tiocsctty(&slave))?;
        for target in 0..3 {
            step("set up stdio", sys::dup_onto(slave.as_fd(), target))?;
        }
        Ok(master)
    }

    /// Everything that belongs to the process itself. Gives the program's path and its environment.
    pub fn become_process(&self) -> Result<(CString, Vec<CString>), Error> {
        let (process, plan) = (&self.process.given, self.process);
        if let Some(attr) = plan.scheduler {
            step("apply process.scheduler", sys::sched_setattr(attr))?;
        }
        if let Some((class, level)) = plan.io_priority {
            step("apply process.ioPriority", sys::ioprio_set(class, level))?;
        }
        if let Some(persona) = self.personality {
            step("apply linux.personality", sys::personality(persona))?;
        }
        rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
        // Looked up as root: the user may not be allowed to read the file, or to enter the directory.
        let env = with_home(plan);
        let entered = rustix::process::chdir(process.cwd());
        if entered.is_ok() {
            inside_root()?;
        }
        // Before the profile, which need not know close_range(2).
        step("keep descriptors from the program", sys::close_on_exec())?;
        if plan.no_new_privileges() {
            step("apply process.noNewPrivileges", rustix::thread::set_no_new_privs(true))?;
        } else {
            // Needs CAP_SYS_ADMIN, which goes with the user.
            self.load_seccomp()?;
        }
        let user = process.user();
        step("limit the capabilities", caps::limit_bounding(plan.caps.bounding))?;
        let groups = user.additional_gids().as_deref().unwrap_or_default();
        let became = identity::become_user(user.uid(), user.gid(), groups);
        step(&format!("become user {}, group {}", user.uid(), user.gid()), became)?;
        step("apply process.capabilities", caps::apply(&plan.caps))?;
        if entered.is_err() {
            let failed = |errno| Error::WorkingDirectory { path: process.cwd().clone(), errno };
            rustix::process::chdir(process.cwd()).map_err(failed)?;
            inside_root()?;
        }
        let program = match plan.args.first() {
            Some(name) => lookup::find(name, lookup::path_of(&plan.env))?,
            None => return Err(lookup::Error::NotInPath(String::new()).into()),
        };
        Ok((program, env))
    }

    /// Tells the agent that all is ready, and waits for its word.
    pub fn wait_for_start(&self, mounted_ns: u64, master: Option<OwnedFd>) -> Result<(), Error> {
        let ready = FromChild::Ready { mounted_ns };
        step("report to the agent", self.channel.send(&ready, master.as_ref().map(|m| m.as_fd())))?;
        drop(master);
        if self.channel.expect(ToChild::Start).is_err() {
            sys::exit(1); // the agent has given the process up
        }
        Ok(())
    }

    /// The profile, as late as can be, so that it need not allow what comes before; and execve(2).
    pub fn execute(&self, program: &CString, env: &[CString]) -> Result<std::convert::Infallible, Error> {
        self.hand_over()?;
        self.load_last_seccomp()?;
        self.become_program(program, env)
    }

    /// execve(2), where the profile is loaded already.
    pub fn replace(&self, program: &CString, env: &[CString]) -> Result<std::convert::Infallible, Error> {
        self.hand_over()?;
        self.become_program(program, env)
    }

    /// Loads the profile that needs no privilege; the other kind is in force by now.
    pub fn load_last_seccomp(&self) -> Result<(), Error> {
        if self.process.no_new_privileges() { self.load_seccomp() } else { Ok(()) }
    }

    fn hand_over(&self) -> Result<(), Error> {
        step("report to the agent", self.channel.send(&FromChild::Executing, None))?;
        for (number, _) in &self.inherited.preserved {
            step("hand descriptors to the program", sys::keep_on_exec(*number))?;
        }
        Ok(())
    }

    fn become_program(&self, program: &CString, env: &[CString]) -> Result<std::convert::Infallible, Error> {
        let error = sys::execve(program, &self.process.args, env);
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        let path = PathBuf::from(program.to_string_lossy().into_owned());
        Err(lookup::Error::Execution { path, errno }.into())
    }

    fn load_seccomp(&self) -> Result<(), Error> {
        match self.seccomp {
            Some(program) => step("load the seccomp profile", sys::seccomp_load(&program.code, program.flags)),
            None => Ok(()),
        }
    }
}

fn show_as_console(master: &OwnedFd) -> Result<(), Error> {
    let name: CString = step("name the terminal", ptsname(master, Vec::new()))?;
    let console =
        rustix::fs::open("/dev/console", OFlags::CREATE | OFlags::PATH | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    if console.is_err() {
        let create = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        step("create /dev/console", rustix::fs::open("/dev/console", create, Mode::from_raw_mode(0o600)))?;
    }
    step("bind the terminal to /dev/console", rustix::mount::mount_bind(name.as_c_str(), "/dev/console"))
}

/// A working directory that a link in the image has led out of the root has no path.
fn inside_root() -> Result<(), Error> {
    let cwd = step("find the working directory", rustix::process::getcwd(Vec::new()))?;
    if cwd.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    step("use process.cwd, which is outside of the container's root", Err(Errno::ACCESS))
}

/// The environment, with HOME from the container's user database where it is missing.
fn with_home(plan: &ProcessPlan) -> Vec<CString> {
    let mut env = plan.env.clone();
    let place = env.iter().position(|e| e.as_bytes().starts_with(b"HOME="));
    if place.and_then(|at| env.get(at)).is_some_and(|home| home.as_bytes().len() > 5) {
        return env;
    }
    let passwd = passwd().unwrap_or_default();
    let home = identity::home(&String::from_utf8_lossy(&passwd), plan.given.user().uid()).to_owned();
    if let Ok(home) = CString::new(format!("HOME={home}")) {
        match place.and_then(|at| env.get_mut(at)) {
            Some(empty) => *empty = home,
            None => env.push(home),
        }
    }
    env
}

/// The container's passwd(5): it may have put anything in its place, a pipe without a writer or an endless device.
fn passwd() -> io::Result<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open("/etc/passwd", flags, Mode::empty())?);
    let mut text = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MOST).read_to_end(&mut text)?;
    }
    Ok(text)
}
