//! One seccomp filter per kind of thread: each thread puts its own on as its first act.
//!
//! The lists, with the reason for each call, are in `host/runtime/seccomp/`; `build.rs` compiles them. A call that is not listed
//! kills the process with SIGSYS (128 + 31 as a shell shows it); the kernel's log then names the call (`audit: type=1326 … syscall=N`).

use seccompiler::sock_filter;

#[cfg(test)]
mod raw;
#[cfg(test)]
mod tests;

include!(concat!(env!("OUT_DIR"), "/seccomp_filters.rs"));

/// What a thread of the monitor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Runs a vCPU.
    Vcpu,
    /// The device loop: vsock, rng, console.
    Devices,
    /// A worker of the file server.
    Fs,
    /// Answers the requests to a block device.
    Blk,
    /// The control socket and the end.
    Main,
}

impl std::fmt::Display for ThreadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ThreadKind::Vcpu => "vCPU",
            ThreadKind::Devices => "device",
            ThreadKind::Fs => "file server",
            ThreadKind::Blk => "block device",
            ThreadKind::Main => "main",
        })
    }
}

/// Why a thread is not confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the {kind} thread's seccomp filter: {reason}")]
pub struct SeccompError {
    kind: ThreadKind,
    reason: seccompiler::Error,
}

/// Confines the calling thread to what threads of `kind` do, for good. Sets no_new_privs on it too.
///
/// Threads that it starts later inherit the filter, but no filter allows it to start one: start all threads first.
///
/// # Errors
/// When the kernel refuses the filter: it was built without CONFIG_SECCOMP_FILTER, or a filter is on that forbids more.
pub fn apply(kind: ThreadKind) -> Result<(), SeccompError> {
    let mut filter = template(kind).to_vec();
    let pid = std::process::id();
    for instruction in &mut filter {
        if instruction.code == JUMP_IF_EQUAL && instruction.k == OWN_PID {
            instruction.k = pid;
        }
    }
    seccompiler::apply_filter(&filter).map_err(|reason| SeccompError { kind, reason })
}

/// BPF_JMP | BPF_JEQ | BPF_K.
const JUMP_IF_EQUAL: u16 = 0x15;

fn template(kind: ThreadKind) -> &'static [sock_filter] {
    match kind {
        ThreadKind::Vcpu => &VCPU,
        ThreadKind::Devices => &DEVICES,
        ThreadKind::Fs => &FS,
        ThreadKind::Blk => &BLK,
        ThreadKind::Main => &MAIN,
    }
}
