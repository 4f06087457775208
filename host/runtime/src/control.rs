//! What `sandbox run` and its monitor say to each other over the control socket pair: one JSON object a line.
//!
//! The command sends one [`MonitorConfig`] (or [`KeeperConfig`]), and once the guest runs [`MonitorOrder`]s, one at a time; the monitor answers with
//! [`MonitorEvent`]s until it ends. The command's end of the
//! socket is the VM's lifeline: when it closes (the command ended, however), the monitor ends the VM.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::shown;
use crate::process_id::ProcessId;
use crate::settings::CachePolicy;

/// File descriptors that the monitor process starts with, beside stderr.
pub mod fds {
    use std::os::fd::RawFd;

    /// The control socket pair's other end.
    pub const CONTROL: RawFd = 3;
    /// Listening Unix socket for streams to the guest (`vsock.sock` in the state directory).
    pub const VSOCK_LISTENER: RawFd = 4;
    /// The kernel image, opened read-only.
    pub const KERNEL: RawFd = 5;
    /// The initramfs, opened read-only.
    pub const INITRAMFS: RawFd = 6;
    /// /dev/kvm, opened read-write.
    pub const KVM: RawFd = 7;
    /// The first of the disks, in the order of [`MonitorConfig::disks`](super::MonitorConfig::disks); nothing else is above.
    pub const DISKS: RawFd = 8;
}

/// One host directory or file that the guest sees below the share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Relative path in the share: `rootfs`, `mounts/0`, …
    pub name: String,
    /// The source is a directory (else a file).
    pub directory: bool,
    /// What is mounted below the source is shared too.
    pub recursive: bool,
    /// Where the guest may not write.
    pub readonly: ReadOnly,
    /// Its owners are shown as others.
    pub id_map: Option<IdMap>,
    /// An overlay of this and other directories, by the options for its file system (overlayfs): mounted by the monitor, for itself.
    pub overlay: Option<String>,
}

/// How far down a share is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// Not at all.
    Nowhere,
    /// The source; what is mounted below it stays as it is.
    Top,
    /// The source and all that is mounted below it.
    All,
}

/// How the owners of an id-mapped mount are shown: lines of uid_map and gid_map (user_namespaces(7)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uid: String,
    /// Of groups.
    pub gid: String,
    /// Of the mounts below it too.
    pub recursive: bool,
}

/// A block device of the host that the guest gets. It is open as one of [`fds::DISKS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its number on the host.
    pub major: u32,
    /// Its number on the host.
    pub minor: u32,
    /// What the container may do with it: letters of `rwm`.
    pub access: String,
    /// It is open for reading only.
    pub read_only: bool,
    /// Its logical block size.
    pub block_size: u32,
}

impl Disk {
    /// By which the guest knows it.
    pub fn serial(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }
}

/// What a monitor needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorConfig {
    /// The container's ID, for messages and the process title.
    pub id: String,
    /// Virtual CPUs, 1 or more.
    pub vcpus: u8,
    /// Guest memory at the start, MiB.
    pub memory_mib: u64,
    /// What it may grow to, MiB.
    pub memory_most_mib: u64,
    /// Appended to the kernel command line.
    pub kernel_arguments: String,
    /// What the guest sees of the host's file system.
    pub shares: Vec<Share>,
    /// What the guest may cache of it.
    pub cache: CachePolicy,
    /// Block devices that the guest gets.
    pub disks: Vec<Disk>,
}

/// What a keeper needs to know: what a container has in a monitor's place whose micro-VM is another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperConfig {
    /// The container's ID.
    pub id: String,
    /// The micro-VM's monitor.
    pub monitor: ProcessId,
    /// Where the way to the guest is found.
    pub socket: PathBuf,
    /// What is to be done.
    pub task: KeeperTask,
}

/// What a keeper is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeeperTask {
    /// The shares are to be in the monitor's jail for as long as the control socket is open: [`MonitorEvent::Attached`]. After that
    /// the container ends, and they go.
    Keep(Vec<Share>),
    /// An earlier keeper was killed: the container is to end, and what is there of its shares is to go.
    Clear,
}

/// What a running VM gets or loses. The next order comes when this one is answered, by [`MonitorEvent::Done`] or
/// [`MonitorEvent::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum MonitorOrder {
    /// A network device. With the order come, as descriptors (SCM_RIGHTS), a tap's queues and then as many times `/dev/vhost-net`, or
    /// nothing more.
    Plug {
        /// Its address.
        mac: [u8; 6],
        /// How many queues the tap has.
        queues: usize,
    },
    /// The device in this window is to go; the guest's driver has let go of it.
    Unplug {
        /// Which.
        window: u32,
    },
    /// The guest is to have so many bytes beyond those that it was started with. Answered with the window of the device that it plugs them
    /// in by.
    Grow {
        /// A multiple of the guest's blocks of memory.
        bytes: u64,
    },
    /// The guest is to give back what it does not use. Answered with the window of the device by which it does.
    ReportFreePages,
    /// The guest's wish for memory was considered, and the next one is to be reported: [`MonitorEvent::MemoryWanted`].
    HearWishes,
    /// What the guest's console shows is asked for; answered by [`MonitorEvent::Console`].
    Console,
}

/// What a monitor reports. Times are nanoseconds of the host's CLOCK_MONOTONIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum MonitorEvent {
    /// The monitor process runs its first instructions.
    Started {
        /// When.
        at_ns: u64,
    },
    /// VM, memory and devices exist; the monitor is confined.
    VmCreated {
        /// When.
        at_ns: u64,
    },
    /// The first vCPU enters the guest's kernel.
    KernelEntered {
        /// When.
        at_ns: u64,
    },
    /// The guest agent listens.
    AgentReady {
        /// When.
        at_ns: u64,
    },
    /// The guest wants more memory. Not reported again before [`MonitorOrder::HearWishes`].
    MemoryWanted,
    /// An order was carried out.
    Done {
        /// The device's window, where it was about one.
        window: u32,
    },
    /// An order could not be carried out.
    Refused {
        /// One sentence.
        message: String,
    },
    /// The last lines of the guest's console, as they were asked for.
    Console {
        /// Oldest first.
        lines: Vec<String>,
    },
    /// A keeper's shares are there.
    Attached,
    /// The VM could not be made or run.
    Failed {
        /// One sentence.
        message: String,
    },
    /// The guest is gone: it reset or halted, or the monitor was told to end.
    Stopped {
        /// The guest's kernel panicked.
        panic: bool,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
}

impl MonitorEvent {
    /// As the answer to an order that a device come or go: its window, or the monitor's sentence. Nothing if it is no such answer.
    pub fn window(self) -> Option<Result<u32, String>> {
        match self {
            MonitorEvent::Done { window } => Some(Ok(window)),
            MonitorEvent::Refused { message } => Some(Err(shown(&message))),
            _ => None,
        }
    }
}
