//! `sandbox exec`: one more process in a container.

use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::process::Pid;

use super::exec_process::{self, Wanted};
use super::foreground::Foreground;
use super::handover::{self, Handover};
use super::prepare::configured_size;
use super::{CommandError, find};
use crate::preserved::Preserved;
use crate::proxy::Role;
use crate::proxy::process::{Inputs, ProxyError, ProxyProcess};
use crate::proxy::protocol::{ExecOrder, FromProxy, ToProxy};
use crate::state::{Record, StateDir, Status, execs};
use crate::sys::{Streams, random_token};

/// What to execute, and how.
#[derive(Debug)]
pub struct Options {
    /// Where state is kept.
    pub root: PathBuf,
    /// The container.
    pub id: String,
    /// The process.
    pub wanted: Wanted,
    /// Do not wait for its end.
    pub detach: bool,
    /// Who gets to know of the process.
    pub handover: Handover,
    /// Descriptors for the process.
    pub preserved: Vec<Preserved>,
    /// Below the container's own cgroup, maybe with names of controllers in front.
    pub cgroups: Vec<String>,
    /// In a paused container too.
    pub ignore_paused: bool,
}

/// Executes a process. Returns its exit status, or 0 where it is not waited for.
pub fn exec(options: &Options) -> Result<u8, CommandError> {
    let (state, record) = find(&options.root, &options.id)?;
    match record.status() {
        Status::Stopped | Status::Creating => return Err(CommandError::ExecStopped),
        Status::Paused if !options.ignore_paused => return Err(CommandError::ExecPaused),
        _ => {}
    }
    log::debug!("container {} runs, its process on the host is {}", record.id, record.proxy.pid);
    let process = exec_process::build(&options.wanted, &record)?;
    let mut foreground = (!options.detach).then(Foreground::new).transpose()?;
    let terminal = process.terminal().unwrap_or(false);
    let (ours, console) = match &mut foreground {
        Some(foreground) => foreground.console(&options.handover, terminal)?,
        None => (None, options.handover.console(terminal)?),
    };
    let order = ExecOrder {
        id: record.id.clone(),
        exec_id: format!("exec-{:016x}", random_token().map_err(CommandError::io("name the process"))?),
        container_pid: record.proxy.pid,
        process: serde_json::to_string(&process).unwrap_or_default(),
        size: foreground.as_ref().and_then(Foreground::size).or_else(|| configured_size(Some(&process))),
        preserved: options.preserved.iter().map(|one| one.place).collect(),
        sub_cgroup: sub_cgroup(&options.cgroups)?,
        ignore_paused: options.ignore_paused,
    };
    let mut proxy = ProxyProcess::spawn(&Inputs {
        role: Role::Exec,
        arguments: process.args().as_deref().unwrap_or_default(),
        streams: if terminal { Streams::Null } else { Streams::Inherited },
        state: state.directory(),
        lock: None,
        console: console.as_ref().map(AsFd::as_fd),
        preserved: &options.preserved,
    })?;
    drop(console);
    let carried = (|| {
        if let Some(foreground) = &mut foreground {
            foreground.forward(proxy.handle())?;
        }
        begin(options, order, &state, &record, &mut proxy)?;
        foreground.as_mut().map_or(Ok(None), |foreground| foreground.carry(ours))
    })();
    let carried = match carried {
        Ok(carried) => carried,
        Err(error) => {
            execs::remove(state.directory(), proxy.id().pid);
            proxy.abort();
            return Err(error);
        }
    };
    if options.detach {
        proxy.tell(&ToProxy::Detach)?;
        return Ok(0);
    }
    let (status, sentence) = proxy.wait();
    log::debug!("the process has ended with status {status}");
    if let Some(carried) = carried {
        carried.finish();
    }
    match sentence {
        Some(message) => Err(ProxyError::Failed { message, status: 255 }.into()),
        None => Ok(status),
    }
}

/// Has the proxy execute the process.
fn begin(
    options: &Options,
    order: ExecOrder,
    state: &StateDir,
    record: &Record,
    proxy: &mut ProxyProcess,
) -> Result<(), CommandError> {
    if let (Some(cgroup), Some(pid)) = (&record.cgroup, Pid::from_raw(proxy.id().pid)) {
        cgroup.add_process(pid)?;
    }
    execs::add(state.directory(), proxy.id()).map_err(CommandError::io("keep the process's pid"))?;
    log::debug!("process {} on the host stands for {} in the guest", proxy.id().pid, order.exec_id);
    proxy.tell(&ToProxy::Exec(Box::new(order)))?;
    proxy.expect(&FromProxy::Ready)?;
    log::debug!("the guest has executed the process");
    handover::tell(&options.handover, proxy)
}

/// Those that a host can have, by the names of v1 and v2.
const CONTROLLERS: [&str; 15] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "io",
    "blkio",
    "pids",
    "devices",
    "hugetlb",
    "freezer",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "name=systemd",
];

/// runc takes `[controller,…:]path` several times. The guest has one hierarchy: all must name one path.
fn sub_cgroup(given: &[String]) -> Result<String, CommandError> {
    let controllers = given.iter().filter_map(|text| text.rsplit_once(':')).flat_map(|(list, _)| list.split(','));
    if let Some(unknown) = controllers.into_iter().find(|name| !CONTROLLERS.contains(name)) {
        return Err(CommandError::UnknownController(unknown.to_owned()));
    }
    let mut paths = given.iter().map(|text| text.rsplit_once(':').map_or(text.as_str(), |(_, path)| path));
    let first = paths.next().unwrap_or_default();
    if paths.all(|path| path == first) { Ok(first.to_string()) } else { Err(CommandError::SubCgroups) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sub_cgroup() {
        let path = |given: &[&str]| sub_cgroup(&given.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        assert_eq!(path(&[]).unwrap(), "");
        assert_eq!(path(&["a/b"]).unwrap(), "a/b");
        assert_eq!(path(&["cpu,memory:a", "pids:a"]).unwrap(), "a");
        assert!(path(&["cpu:a", "memory:b"]).is_err());
        assert_eq!(path(&["whaaat:/"]).unwrap_err().to_string(), "unknown controller whaaat in --cgroup");
    }
}
