//! Many containers, one after the other and at once, and commands that are killed at any moment. The census after each test finds
//! what is left behind.
//!
//! In the lab the numbers are small; SANDBOX_CYCLES=500 SANDBOX_AT_ONCE=50 SANDBOX_FAULTS=500 SANDBOX_EXECS=1000 are the full ones.
//! SANDBOX_SEED=N repeats what a run of the faults did.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;

use super::lifecycle::{Created, call, create};
use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("cycles::one_after_the_other", 3600, one_after_the_other),
    any("cycles::at_once", 3600, at_once),
    any("cycles::execs_at_once", 1800, execs_at_once),
    any("cycles::execs_in_a_row", 3600, execs_in_a_row),
    ours("cycles::killed_at_any_moment", 3600, killed_at_any_moment),
];

/// A number from the environment, else one that fits the place.
fn number(variable: &str, lab: usize, elsewhere: usize) -> usize {
    let given = std::env::var(variable).ok().map(|text| text.parse().expect("a number"));
    given.unwrap_or(if std::env::var_os("LAB").is_some() { lab } else { elsewhere })
}

fn sleeper(env: &Env, name: &str) -> Bundle {
    env.bundle_named(Root::Busybox, name).script("trap 'exit 7' TERM; while :; do sleep 0.1; done")
}

fn cycle(env: &Env, bundle: Bundle) {
    let container = Created::new(env, bundle);
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    container.call(&["kill", id, "KILL"]).ok();
    container.wait();
    container.call(&["delete", id]).ok();
}

fn one_after_the_other(env: &Env) {
    for _ in 0..number("SANDBOX_CYCLES", 3, 500) {
        cycle(env, sleeper(env, "cycle"));
    }
}

fn at_once(env: &Env) {
    let count = number("SANDBOX_AT_ONCE", 4, 50);
    std::thread::scope(|scope| {
        for index in 0..count {
            scope.spawn(move || cycle(env, sleeper(env, &format!("cycle-{index}"))));
        }
    });
}

fn execs_at_once(env: &Env) {
    let container = Created::new(env, sleeper(env, "execs"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let count = number("SANDBOX_EXECS_AT_ONCE", 8, 50);
    std::thread::scope(|scope| {
        for index in 0..count {
            let container = &container;
            scope.spawn(move || {
                let script = format!("echo {index}; exit {}", index % 7);
                let outcome = container.call(&["exec", id, "sh", "-c", &script]);
                assert_eq!((outcome.code(), outcome.stdout.trim()), ((index % 7) as i32, index.to_string().as_str()));
            });
        }
    });
}

/// Open descriptors of a process, and its own memory in KiB.
fn weight(pid: Pid) -> (usize, u64) {
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let descriptors = std::fs::read_dir(process.join("fd")).expect("descriptors").count();
    let rollup = std::fs::read_to_string(process.join("smaps_rollup")).expect("smaps_rollup");
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).expect("Anonymous");
    (descriptors, line.split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("KiB"))
}

fn execs_in_a_row(env: &Env) {
    let container = Created::new(env, sleeper(env, "execs"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let exec = || assert_eq!(container.call(&["exec", id, "sh", "-c", "exit 5"]).code(), 5);
    exec();
    let before = weight(container.pid);
    for _ in 0..number("SANDBOX_EXECS", 5, 1000) {
        exec();
    }
    let after = weight(container.pid);
    assert_eq!(after.0, before.0, "open descriptors");
    assert!(after.1 <= before.1 + 1024, "memory grew from {} to {} KiB", before.1, after.1);
    // Zombies would be seen in the container.
    let processes = container.call(&["exec", id, "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ') Z ' || true"]);
    assert_eq!(processes.ok().trim(), "0");
}

/// A generator that needs nothing but its seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

const STEPS: [&str; 5] = ["create", "start", "exec", "kill", "delete"];

fn command(env: &Env, bundle: &Bundle, step: &str) -> Command {
    let mut command = match step {
        "create" => create(env, bundle),
        step => {
            let mut command = Command::new(&env.runtime);
            command.arg(step);
            command
        }
    };
    command.arg(&bundle.id);
    match step {
        "exec" => command.args(["sh", "-c", "sleep 1"]),
        "kill" => command.arg("KILL"),
        _ => &mut command,
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// One cycle in which the command of one step is killed after `delay`; then all is deleted by force.
fn fault(env: &Env, bundle: &Bundle, victim: &str, delay: Duration) {
    for step in STEPS {
        let mut child = command(env, bundle, step).spawn().expect("the runtime");
        if step == victim {
            std::thread::sleep(delay);
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        let status = child.wait().expect("wait");
        assert!(status.success(), "{step} before the fault: {status}");
    }
    call(env, &["delete", "--force", &bundle.id]).ok();
}

fn killed_at_any_moment(env: &Env) {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = std::env::var("SANDBOX_SEED").map_or(clock, |text| text.parse().expect("a number")).max(1);
    eprintln!("SANDBOX_SEED={seed}");
    let mut random = Random(seed);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("subreaper");
    let bundle = sleeper(env, "fault");
    // How long each step takes here, undisturbed: the kills fall anywhere in it, and a little later.
    let mut length = Vec::new();
    for step in STEPS {
        let start = Instant::now();
        assert!(command(env, &bundle, step).status().expect("the runtime").success(), "{step}");
        length.push(start.elapsed());
    }
    for _ in 0..number("SANDBOX_FAULTS", 5, 500) {
        let index = random.below(STEPS.len() as u64) as usize;
        let longest = (length[index].as_micros() as u64).saturating_mul(5) / 4;
        let delay = Duration::from_micros(random.below(longest));
        eprintln!("{} killed after {} ms", STEPS[index], delay.as_millis());
        fault(env, &bundle, STEPS[index], delay);
    }
}
