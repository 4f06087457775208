//! `sandbox-agent`: PID 1 of the guest. It takes calls over vsock and makes containers (see `docs/architecture.md`).
//!
//! There is exactly one thread, always: a container's first process is a copy of this one (see [`sys::clone3`]), which is
//! sound only while no second thread can hold a lock.

mod agent;
mod boot;
mod bpf;
mod cgroup;
mod clock;
mod container;
mod debug_shell;
mod detour;
#[doc(hidden)]
pub mod fuzzing;
mod klog;
mod mappings;
mod memory;
mod mounts;
#[cfg(test)]
mod mutation_tests;
mod names;
mod network;
mod notify;
mod process;
mod reaper;
mod rpc;
mod seccomp;
mod sockets;
mod spec;
mod stdio;
mod streams;
mod sys;
mod watching;

/// All of the agent, to the end.
pub fn main() {
    sys::ignore_sigpipe();
    if let Err(error) = start() {
        log::error!("{error}");
        boot::power_off();
    }
}

fn start() -> Result<(), boot::Error> {
    let entered_ns = rpc::now_ns();
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        return Err(boot::Error::NotInit);
    }
    boot::first()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| boot::Error::Step { step: "start the event loop", source })?;
    runtime.block_on(agent::run(entered_ns))
}
