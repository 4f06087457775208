//! linux.resources as writes to the files of the host's cgroups.
//!
//! Limits of memory are raised by what the micro-VM takes beside the container; those of CPU, CPU sets and block I/O hold as
//! given. Limits of processes, devices and huge pages would meet the monitor instead of the container's processes: only the
//! guest applies them. Those of network and RDMA are refused before.

mod v1;
mod v2;

use oci_spec::runtime::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

use super::CgroupError;
use super::overhead::Overhead;
pub use v2::bytes;

/// One write to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// By v1's names; `io` in v2.
    pub controller: &'static str,
    /// Below the cgroup.
    pub file: String,
    /// What is written.
    pub value: String,
}

impl Setting {
    /// It limits how much CPU time there is, not which share of it or where.
    pub fn is_cpu_time(&self) -> bool {
        self.controller == "cpu" && ["cpu.max", "cpu.cfs_"].iter().any(|prefix| self.file.starts_with(prefix))
    }
}

/// What limits depend on beside the container's wishes.
pub struct Host<'a> {
    /// cgroup v2.
    pub unified: bool,
    /// Beside the container's memory.
    pub overhead: Overhead,
    /// Whether the cgroup has a file: kernels differ in what weighs block I/O.
    pub has_file: &'a dyn Fn(&'static str, &str) -> bool,
}

/// All writes, in their order.
pub fn settings(resources: &LinuxResources, host: &Host<'_>) -> Result<Vec<Setting>, CgroupError> {
    if host.unified { v2::settings(resources, host) } else { v1::settings(resources, host) }
}

/// Collects the writes to one controller's files.
struct Writes<'a> {
    controller: &'static str,
    list: &'a mut Vec<Setting>,
}

impl Writes<'_> {
    fn set(&mut self, file: &str, value: impl ToString) {
        let (file, value) = (file.to_owned(), value.to_string());
        self.list.push(Setting { controller: self.controller, file, value });
    }

    /// Where it is asked for. Zero is the specification's word for "not".
    fn given<T: ToString + PartialEq + Default>(&mut self, file: &str, value: Option<T>) {
        if let Some(value) = value.filter(|value| *value != T::default()) {
            self.set(file, value);
        }
    }
}

/// Rates of devices: the specification's names, v1's file and v2's key.
fn throttles(io: &LinuxBlockIo) -> impl Iterator<Item = (&'static str, &'static str, &LinuxThrottleDevice)> {
    [
        ("blkio.throttle.read_bps_device", "rbps", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", "wbps", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", "riops", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", "wiops", io.throttle_write_iops_device()),
    ]
    .into_iter()
    .flat_map(|(file, key, devices)| devices.iter().flatten().map(move |device| (file, key, device)))
}

fn refuse<T>(field: &'static str, problem: &'static str) -> Result<T, CgroupError> {
    Err(CgroupError::Resource { field, problem })
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
