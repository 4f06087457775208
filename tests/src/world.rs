//! Network namespaces for tests: nothing leaves them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host;

/// A network namespace, which lasts as long as this.
pub struct World {
    holder: Child,
}

impl World {
    /// A new one, with its loopback up.
    pub fn new() -> World {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("start unshare");
        let world = World { holder };
        let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
        let start = Instant::now();
        while std::fs::read_link(world.path()).is_ok_and(|theirs| theirs == own) {
            assert!(start.elapsed() < Duration::from_secs(60), "unshare makes no namespace");
            std::thread::sleep(Duration::from_millis(10));
        }
        world.run(&["ip", "link", "set", "lo", "up"]);
        world
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// What stands for it.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Runs a program in it, which must succeed; gives its output.
    pub fn run(&self, arguments: &[&str]) -> String {
        let pid = self.pid().to_string();
        host("nsenter", &[&["-t", &pid, "-n"], arguments].concat())
    }

    /// Starts a program in it, which lasts as long as what this gives.
    pub fn start(&self, arguments: &[&str]) -> Server {
        let pid = self.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n"]).args(arguments).stdin(Stdio::null());
        Server(command.spawn().expect("start nsenter"))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A program that runs beside the test.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
