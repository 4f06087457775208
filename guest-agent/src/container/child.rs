//! The child's side of CreateContainer: from a copy of the agent to the container's first process. Nothing here returns to
//! the agent's code: it ends in execve(2) or in an error that is sent to the parent.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid};

use super::hooks::{self, State, Surroundings};
use super::namespaces::{Joined, born_inside, unshare_flags};
use super::program::{Error, Program, step};
use super::sync::{FromChild, ToChild};
use crate::mounts::{Prepared, rootfs};
use crate::spec::{self, Plan};
use crate::{rpc, sys};

/// What the child takes along from the agent.
pub struct Job<'a> {
    /// The checked config.json.
    pub plan: &'a Plan,
    /// What it becomes in the end.
    pub program: Program<'a>,
    /// Namespaces to enter.
    pub joined: Joined,
    /// The container's cgroup.
    pub cgroup: PathBuf,
    /// What the agent had to mount for it.
    pub prepared: Prepared,
    /// For hooks.
    pub state: State,
}

/// Everything, to the end.
pub fn run(job: &Job<'_>) -> ! {
    sys::reset_signals();
    let Err(error) = build(job);
    let _ = job.program.channel.send(&FromChild::Failed(error.into()), None);
    sys::exit(1)
}

/// Closes what the agent had open, but for these.
pub fn close_others(joined: &Joined, program: &Program<'_>, mounts: impl Iterator<Item = RawFd>) {
    let mut keep: Vec<i32> = joined.0.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    keep.push(program.channel.raw());
    let inherited = &program.inherited;
    keep.extend(inherited.stdio.iter().chain(inherited.preserved.iter().map(|(_, fd)| fd)).map(|fd| fd.as_raw_fd()));
    keep.extend(mounts);
    sys::close_all_but(&keep);
}

/// After a user namespace was entered.
pub fn become_root() -> Result<(), Error> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    step("become root in the user namespace", rustix::thread::set_thread_groups(&[]))?;
    step("become root in the user namespace", rustix::thread::set_thread_res_gid(gid, gid, gid))?;
    step("become root in the user namespace", rustix::thread::set_thread_res_uid(uid, uid, uid))
}

fn build(job: &Job<'_>) -> Result<std::convert::Infallible, Error> {
    let (plan, program) = (job.plan, &job.program);
    close_others(&job.joined, program, job.prepared.descriptors());
    enter_namespaces(job)?;
    if let Some(keyring) = program.keyring {
        step("create a session keyring", keyring.create())?;
    }
    names_and_sysctls(plan)?;
    let (root, unsealed) = rootfs::build(plan, &job.cgroup, &job.prepared)?;
    let surroundings = Surroundings { root: Some(root.path()), env: &plan.process.env };
    hooks::run_all(&plan.hooks.create_container, &job.state, "creating", &surroundings)?;
    rootfs::enter(plan, root, unsealed)?;
    let mounted_ns = rpc::now_ns();
    let master = program.open_stdio(true)?;
    rootfs::seal(plan)?;
    let (path, env) = program.become_process()?;
    program.wait_for_start(mounted_ns, master)?;
    if plan.hooks.start_container.is_empty() {
        return program.execute(&path, &env);
    }
    // As with runc, these hooks run under the container's profile.
    program.load_last_seccomp()?;
    let surroundings = Surroundings { root: None, env: &env };
    hooks::run_all(&plan.hooks.start_container, &job.state, "created", &surroundings)?;
    program.replace(&path, &env)
}

fn enter_namespaces(job: &Job<'_>) -> Result<(), Error> {
    let namespaces = &job.plan.namespaces;
    if !born_inside(namespaces) {
        step("join a namespace", job.joined.enter())?;
    }
    if job.program.channel.expect(ToChild::Go).is_err() {
        sys::exit(1);
    }
    if namespaces.is_own(libc::CLONE_NEWUSER) {
        become_root()?;
    }
    step("create namespaces", sys::unshare(unshare_flags(namespaces)))?;
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
        match sysctl(name, value) {
            // Of an interface that is set up between this and the start of the container, which looks whether it was there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && spec::sysctl::of_interface(name).is_some() => {}
            set => set.map_err(|source| Error::Sysctl { name: name.clone(), value: value.clone(), source })?,
        }
    }
    Ok(())
}

/// Through the guest's /proc, which shows the values of the namespaces of whoever looks.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let open = |path: String| std::fs::OpenOptions::new().write(true).open(Path::new("/proc/sys").join(path));
    let file = match open(spec::sysctl::path(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(spec::sysctl::all_separate(name)),
        file => file,
    };
    file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}
