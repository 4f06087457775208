//! `sandbox-agent`: PID 1 of the guest. It takes calls over vsock and makes containers (see `docs/architecture.md`).
//!
//! There is exactly one thread, always: a container's first process is a copy of this one (see [`sys::clone3`]), which is
//! sound only while no second thread can hold a lock.
#![cfg_attr(not(test), no_main)]

mod agent;
mod boot;
mod cgroup;
mod container;
mod debug_shell;
mod klog;
mod mounts;
#[cfg(test)]
mod mutation_tests;
mod process;
mod reaper;
mod rpc;
mod seccomp;
mod spec;
mod stdio;
mod streams;
mod sys;

/// The C entry point, and not Rust's `main`: before that one runs, the standard library opens /dev/null for missing
/// descriptors 0 to 2 and aborts where there is none, and at this point the guest has no /dev.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, allow(dead_code))]
extern "C" fn main(_argc: std::ffi::c_int, _argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
    sys::ignore_sigpipe();
    if let Err(error) = start() {
        log::error!("{error}");
        boot::power_off();
    }
    0
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
