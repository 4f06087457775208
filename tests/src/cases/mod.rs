//! The tests, by group.

mod addresses;
mod bad;
mod blocks;
mod cgroup;
mod cycles;
mod descriptors;
mod differential;
mod fields;
mod filesystem;
mod lifecycle;
mod memory;
mod network;
mod programs;
mod queues;
mod settings;
mod shared;
mod signals;
mod sockets;
mod status;
mod streams;
mod terminal;
mod trace;
mod watching;

use crate::{Case, Env, For};

/// All of them, in the order in which they run.
pub fn all() -> Vec<Case> {
    let groups = [
        status::CASES,
        streams::CASES,
        descriptors::CASES,
        signals::CASES,
        terminal::CASES,
        settings::CASES,
        blocks::CASES,
        fields::CASES,
        programs::CASES,
        filesystem::CASES,
        watching::CASES,
        lifecycle::CASES,
        network::CASES,
        addresses::CASES,
        queues::CASES,
        shared::CASES,
        sockets::CASES,
        cgroup::CASES,
        memory::CASES,
        cycles::CASES,
        trace::CASES,
        bad::CASES,
        differential::CASES,
    ];
    groups.concat()
}

const fn any(name: &'static str, seconds: u64, run: fn(&Env)) -> Case {
    Case { name, runtimes: For::Any, seconds, run }
}

const fn ours(name: &'static str, seconds: u64, run: fn(&Env)) -> Case {
    Case { name, runtimes: For::Sandbox, seconds, run }
}
