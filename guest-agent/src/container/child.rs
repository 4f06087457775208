//! The child's side: from a copy of the agent to the container's first process. Nothing here returns to the agent's code:
//! it ends in execve(2) or in an error that is sent to the parent.

use agent_protocol::Plain;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::namespaces::{Joined, unshare_flags};
use super::sync::{ChildChannel, Failure, FromChild, Kind, ToChild};
use crate::mounts::{self, rootfs};
use crate::process::{caps, identity, lookup};
use crate::spec::Plan;
use crate::{rpc, sys};

/// What the child takes along from the agent.
pub struct Job<'a> {
    /// The checked config.json.
    pub plan: &'a Plan,
    /// To the agent.
    pub channel: ChildChannel,
    /// Standard input, output and error; unused with a terminal.
    pub stdio: [OwnedFd; 3],
    /// Namespaces to enter.
    pub joined: Joined,
    /// The container's cgroup.
    pub cgroup: PathBuf,
    /// The terminal's first size.
    pub size: Winsize,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {step}: {}", Plain(source))]
    Step { step: String, source: io::Error },
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    #[error("chdir to cwd ({path:?}) set in config.json failed: {}", Plain(&io::Error::from(*errno)))]
    WorkingDirectory { path: PathBuf, errno: Errno },
    #[error("config.json: linux.sysctl: {name:?} cannot be set to {value:?}: {}", Plain(source))]
    Sysctl { name: String, value: String, source: io::Error },
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Lookup(lookup::Error::NotInPath(_) | lookup::Error::NotFound(_)) => Kind::NotFound,
            Error::WorkingDirectory { errno: Errno::NOENT, .. } => Kind::NotFound,
            Error::Lookup(lookup::Error::Denied(_)) => Kind::Denied,
            Error::Mounts(mounts::Error::InsideProc(_)) | Error::Sysctl { .. } => Kind::Invalid,
            _ => Kind::Internal,
        };
        Failure { kind, message: error.to_string() }
    }
}

fn step<T, E: Into<io::Error>>(step: &str, result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|e| Error::Step { step: step.to_owned(), source: e.into() })
}

/// Everything, to the end.
pub fn run(job: &Job<'_>) -> ! {
    sys::reset_signals();
    let Err(error) = build(job);
    let _ = job.channel.send(&FromChild::Failed(error.into()), None);
    sys::exit(1)
}

fn build(job: &Job<'_>) -> Result<std::convert::Infallible, Error> {
    let plan = job.plan;
    let mut keep: Vec<i32> = job.joined.0.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    keep.push(job.channel.raw());
    keep.extend(job.stdio.iter().map(|fd| fd.as_raw_fd()));
    sys::close_all_but(&keep);
    enter_namespaces(job)?;
    names_and_sysctls(plan)?;
    rootfs::enter(plan, &job.cgroup)?;
    let mounted_ns = rpc::now_ns();
    step("start a session", rustix::process::setsid())?;
    let master = if plan.terminal() { Some(terminal(job)?) } else { None };
    if master.is_none() {
        for (target, fd) in job.stdio.iter().enumerate() {
            step("set up stdio", sys::dup_onto(fd.as_fd(), target as i32))?;
        }
    }
    rootfs::seal(plan)?;
    let (program, env) = become_process(plan)?;
    let ready = FromChild::Ready { mounted_ns };
    step("report to the agent", job.channel.send(&ready, master.as_ref().map(|m| m.as_fd())))?;
    drop(master);
    if job.channel.expect(ToChild::Start).is_err() {
        sys::exit(1); // the agent has given the container up
    }
    step("report to the agent", job.channel.send(&FromChild::Executing, None))?;
    step("keep descriptors from the program", sys::close_on_exec())?;
    // As late as can be, so that the profile need not allow what came before.
    if no_new_privileges(plan) {
        load_seccomp(plan)?;
    }
    let error = sys::execve(&program, &plan.args, &env);
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    let name = plan.args.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
    Err(lookup::failure(name, errno).into())
}

fn enter_namespaces(job: &Job<'_>) -> Result<(), Error> {
    let namespaces = &job.plan.namespaces;
    for (flag, fd) in &job.joined.0 {
        // This process was born in those two.
        if !matches!(*flag, libc::CLONE_NEWPID | libc::CLONE_NEWTIME) {
            step("join a namespace", sys::setns(fd.as_fd(), *flag))?;
        }
    }
    step("create namespaces", sys::unshare(unshare_flags(namespaces)))?;
    if job.channel.expect(ToChild::Go).is_err() {
        sys::exit(1);
    }
    if namespaces.is_own(libc::CLONE_NEWUSER) {
        let (uid, gid) = (Uid::ROOT, Gid::ROOT);
        step("become root in the user namespace", rustix::thread::set_thread_groups(&[]))?;
        step("become root in the user namespace", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
        step("become root in the user namespace", rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    }
    if namespaces.is_new(libc::CLONE_NEWCGROUP) {
        step("create a cgroup namespace", sys::unshare(libc::CLONE_NEWCGROUP))?;
    }
    if namespaces.is_new(libc::CLONE_NEWNET) {
        step("bring the loopback interface up", sys::loopback_up())?;
    }
    Ok(())
}

fn names_and_sysctls(plan: &Plan) -> Result<(), Error> {
    if let Some(name) = plan.spec.hostname() {
        step("set the hostname", rustix::system::sethostname(name.as_bytes()))?;
    }
    if let Some(name) = plan.spec.domainname() {
        step("set the domainname", rustix::system::setdomainname(name.as_bytes()))?;
    }
    let sysctls = plan.spec.linux().iter().flat_map(|l| l.sysctl().iter().flatten());
    for (name, value) in sysctls {
        sysctl(name, value).map_err(|source| Error::Sysctl { name: name.clone(), value: value.clone(), source })?;
    }
    Ok(())
}

/// Through the guest's /proc, which shows the values of the namespaces of whoever looks.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    // Dots separate, unless there are slashes: then they are part of a name.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    std::fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(path))
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

/// Opens a terminal of the container's own devpts, makes it the controlling one, and shows it as /dev/console.
fn terminal(job: &Job<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |path: &str| rustix::fs::open(path, flags, Mode::empty());
    let master = step("open a terminal", open("/dev/pts/ptmx").or_else(|_| open("/dev/ptmx")))?;
    step("unlock the terminal", unlockpt(&master))?;
    let pts = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = step("open the terminal's other side", ioctl_tiocgptpeer(&master, pts))?;
    if job.size.ws_col != 0 || job.size.ws_row != 0 {
        step("set the terminal's size", tcsetwinsize(&master, job.size))?;
    }
    let uid = Uid::from_raw(job.plan.process().user().uid());
    step("give the terminal to the user", rustix::fs::fchown(&slave, Some(uid), None))?;
    let name: CString = step("name the terminal", ptsname(&master, Vec::new()))?;
    let console =
        rustix::fs::open("/dev/console", OFlags::CREATE | OFlags::PATH | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    if console.is_err() {
        let create = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        step("create /dev/console", rustix::fs::open("/dev/console", create, Mode::from_raw_mode(0o600)))?;
    }
    step("bind the terminal to /dev/console", rustix::mount::mount_bind(name.as_c_str(), "/dev/console"))?;
    step("take the terminal", rustix::process::ioctl_tiocsctty(&slave))?;
    for target in 0..3 {
        step("set up stdio", sys::dup_onto(slave.as_fd(), target))?;
    }
    Ok(master)
}

fn no_new_privileges(plan: &Plan) -> bool {
    plan.process().no_new_privileges().unwrap_or(false)
}

fn load_seccomp(plan: &Plan) -> Result<(), Error> {
    match &plan.seccomp {
        Some(program) => step("load the seccomp profile", sys::seccomp_load(&program.code, program.flags)),
        None => Ok(()),
    }
}

/// Everything that belongs to the process itself. Gives the program's path and its environment.
fn become_process(plan: &Plan) -> Result<(CString, Vec<CString>), Error> {
    let process = plan.process();
    if let Some(attr) = plan.scheduler {
        step("apply process.scheduler", sys::sched_setattr(attr))?;
    }
    if let Some((class, level)) = plan.io_priority {
        step("apply process.ioPriority", sys::ioprio_set(class, level))?;
    }
    if let Some(persona) = plan.personality {
        step("apply linux.personality", sys::personality(persona))?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    // Looked up as root: the user may not be allowed to read the file, or to enter the directory.
    let env = with_home(plan);
    let entered = rustix::process::chdir(process.cwd());
    if no_new_privileges(plan) {
        step("apply process.noNewPrivileges", rustix::thread::set_no_new_privs(true))?;
    } else {
        // Needs CAP_SYS_ADMIN, which goes with the user.
        load_seccomp(plan)?;
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
    }
    inside_root()?;
    let program = match plan.args.first() {
        Some(name) => lookup::find(name, lookup::path_of(&plan.env))?,
        None => return Err(lookup::Error::NotInPath(String::new()).into()),
    };
    Ok((program, env))
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
fn with_home(plan: &Plan) -> Vec<CString> {
    let mut env = plan.env.clone();
    let is_home = |e: &CString| e.as_bytes().starts_with(b"HOME=") && e.as_bytes().len() > 5;
    if !env.iter().any(is_home) {
        env.retain(|e| e.as_bytes() != b"HOME=");
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        let home = identity::home(&passwd, plan.process().user().uid());
        env.extend(CString::new(format!("HOME={home}")));
    }
    env
}
