//! What concerns the processes of a container that watch files.

use rustix::process::Pid;

use super::Container;

impl Container {
    /// Its first process.
    pub fn pid(&self) -> Pid {
        self.first.pid()
    }

    /// Its processes, not many more than `most`; none where they cannot be told.
    pub fn pids(&self, most: usize) -> Vec<Pid> {
        let mut pids = self.cgroup.processes(most).unwrap_or_default();
        pids.truncate(most);
        pids
    }

    /// The processor time that all of them have used, in microseconds.
    pub fn processor_time(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.cgroup.path().join("cpu.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
    }
}
