//! Processes that are born in the namespaces of others. Each test runs the test program again: a process with one thread, as the agent
//! is, is cloned from.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};

use super::*;
use crate::container::child::become_root;

fn of(new: i32, joined: &[i32]) -> Namespaces {
    Namespaces { new, joined: joined.iter().map(|flag| (*flag, PathBuf::new())).collect() }
}

#[test]
fn who_is_born_inside() {
    let (user, pid, net, time) = (libc::CLONE_NEWUSER, libc::CLONE_NEWPID, libc::CLONE_NEWNET, libc::CLONE_NEWTIME);
    assert!(born_inside(&of(pid, &[user, net])));
    assert!(born_inside(&of(user | pid, &[net])));
    assert!(!born_inside(&of(user | net, &[pid, time])));
    assert!(!born_inside(&of(net, &[user, pid])));
    assert!(!born_inside(&of(pid | net, &[])));
    assert!(!born_inside(&Namespaces::default()));
}

fn run_child(name: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: namespaces need root");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("container::namespaces::tests::{name}"), "--exact", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "no such test: {name}");
}

/// A process in namespaces of its own, until this is dropped.
struct Holder(Pid);

impl Holder {
    fn new(flags: i32) -> Holder {
        match sys::clone3(flags as u64, None).unwrap() {
            sys::Cloned::Child => {
                std::thread::sleep(Duration::from_secs(60));
                sys::exit(0)
            }
            sys::Cloned::Parent(pid) => Holder(pid),
        }
    }

    fn join(&self, flags: &[i32]) -> Vec<(i32, PathBuf)> {
        flags.iter().map(|flag| (*flag, path_of(self.0, *flag).unwrap())).collect()
    }

    fn net(&self) -> PathBuf {
        fs::read_link(path_of(self.0, libc::CLONE_NEWNET).unwrap()).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

fn map(pid: Pid, first: u32) {
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{}/{file}", pid.as_raw_pid()), format!("0 {first} 1000")).unwrap();
    }
}

fn own_cgroup() -> Option<OwnedFd> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let below = |root: &str| PathBuf::from(root).join(path);
    let found = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(below);
    let directory = found.into_iter().find(|directory| directory.join("cgroup.controllers").exists())?;
    File::open(directory).ok().map(OwnedFd::from)
}

/// Clones, and has the child do its `work` once it is told to, and tell by its exit status where it failed. The parent does `before` that.
fn born(namespaces: &Namespaces, before: impl FnOnce(Pid), work: impl FnOnce() -> Result<(), i32>) {
    let Some(cgroup) = own_cgroup() else { return println!("skipped: there is no cgroup v2") };
    let joined = Joined::open(namespaces).unwrap();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    match clone(namespaces, &joined, None, cgroup.as_fd()).unwrap() {
        sys::Cloned::Child => {
            let _ = rustix::io::read(&read, &mut [0; 1]);
            sys::exit(work().err().unwrap_or(0))
        }
        sys::Cloned::Parent(pid) => {
            before(pid);
            rustix::io::write(&write, b"x").unwrap();
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
}

/// What only the owner of the pid namespace can do.
fn mount_proc(namespaces: &Namespaces) -> Result<(), i32> {
    become_root().map_err(|_| 11)?;
    sys::unshare(unshare_flags(namespaces)).map_err(|_| 12)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|_| 13)?;
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::empty(), None).map_err(|_| 14)
}

fn check(condition: bool, status: i32) -> Result<(), i32> {
    if condition { Ok(()) } else { Err(status) }
}

#[test]
fn a_new_pid_namespace_belongs_to_the_joined_user_namespace() {
    run_child("child_joins_a_user_namespace");
}

#[test]
#[ignore = "run by a_new_pid_namespace_belongs_to_the_joined_user_namespace"]
fn child_joins_a_user_namespace() {
    let holder = Holder::new(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS);
    map(holder.0, 100_000);
    let joined = holder.join(&[libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWUTS]);
    let namespaces = Namespaces { new: libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC, joined };
    let net = holder.net();
    born(
        &namespaces,
        |_| {},
        || {
            check(rustix::process::getpid().as_raw_pid() == 1, 1)?;
            mount_proc(&namespaces)?;
            check(fs::read_link("/proc/self/ns/net").is_ok_and(|own| own == net), 2)?;
            check(fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| text.contains("100000")), 3)?;
            rustix::system::sethostname(b"joined").map_err(|_| 4)
        },
    );
}

#[test]
fn a_new_user_namespace_takes_no_right_to_join() {
    run_child("child_makes_a_user_namespace");
}

#[test]
#[ignore = "run by a_new_user_namespace_takes_no_right_to_join"]
fn child_makes_a_user_namespace() {
    let holder = Holder::new(libc::CLONE_NEWNET);
    let new = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    let namespaces = Namespaces { new, joined: holder.join(&[libc::CLONE_NEWNET]) };
    let net = holder.net();
    born(
        &namespaces,
        |pid| map(pid, 200_000),
        || {
            check(rustix::process::getpid().as_raw_pid() == 1, 1)?;
            mount_proc(&namespaces)?;
            check(fs::read_link("/proc/self/ns/net").is_ok_and(|own| own == net), 2)?;
            check(fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| text.contains("200000")), 3)
        },
    );
}

#[test]
fn a_joined_pid_namespace_has_numbers_of_its_own() {
    run_child("child_joins_a_pid_namespace");
}

#[test]
#[ignore = "run by a_joined_pid_namespace_has_numbers_of_its_own"]
fn child_joins_a_pid_namespace() {
    let holder = Holder::new(libc::CLONE_NEWNET | libc::CLONE_NEWPID);
    let new = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    let namespaces = Namespaces { new, joined: holder.join(&[libc::CLONE_NEWNET, libc::CLONE_NEWPID]) };
    let net = holder.net();
    born(
        &namespaces,
        |pid| map(pid, 300_000),
        || {
            check(rustix::process::getpid().as_raw_pid() == 2, 1)?;
            check(fs::read_link("/proc/self/ns/net").is_ok_and(|own| own == net), 2)?;
            check(fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| text.contains("300000")), 3)
        },
    );
}

#[test]
fn what_cannot_be_entered_is_told() {
    run_child("child_cannot_enter");
}

#[test]
#[ignore = "run by what_cannot_be_entered_is_told"]
fn child_cannot_enter() {
    let Some(cgroup) = own_cgroup() else { return };
    let holder = Holder::new(libc::CLONE_NEWNET);
    // Another kind than its file's.
    let joined = vec![(libc::CLONE_NEWUSER, path_of(holder.0, libc::CLONE_NEWNET).unwrap())];
    let namespaces = Namespaces { new: libc::CLONE_NEWPID, joined };
    let error = clone(&namespaces, &Joined::open(&namespaces).unwrap(), None, cgroup.as_fd()).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot create the process: invalid argument");
}
