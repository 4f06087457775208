//! The `sandbox` command as a library: what its binary, its tests and other front ends share.

pub mod bundle;
pub mod cgroup;
pub mod cli;
pub mod commands;
pub mod console;
pub mod control;
pub mod doctor;
mod error;
pub mod features;
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
pub mod guest_files;
pub mod hooks;
pub mod images;
mod jail;
pub mod log;
pub mod machine;
mod monitor;
pub mod monitor_process;
mod mountinfo;
pub mod preserved;
pub mod process_id;
pub mod proxy;
pub mod rpc;
mod seccomp;
pub mod session;
pub mod settings;
pub mod share;
pub mod signals;
pub mod spec;
pub mod state;
pub mod stdio;
mod sys;
pub mod terminal;
mod timestamp;
pub mod trace;
