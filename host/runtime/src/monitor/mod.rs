//! The monitor: the process that is one micro-VM. Started by `sandbox run` with the descriptors of [`fds`], it confines itself
//! before the guest runs its first instruction.
//!
//! Threads: one per vCPU, the device loop, the file server's workers, one per block device, and the main one, which carries out orders until the control socket
//! closes: then the command that wanted the VM is gone, and so is the VM.

mod inherited;
mod keeper;
mod orders;
mod report;
mod wishes;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use agent_protocol::watch::replay_uid;
use agent_protocol::{GUEST_CID, MAX_INTERFACES, MEMORY_PORT, READY_PORT, SHARE_TAG};
use kvm_ioctls::Kvm;
use serde::de::DeserializeOwned;
use vmm::devices::blk::{Blk, BlkConfig, BlkError};
use vmm::devices::console::Console;
use vmm::devices::fs::{self, Fs, FsConfig, FsError};
use vmm::devices::rng::Rng;
use vmm::devices::vsock::{Vsock, VsockConfig};
use vmm::event_loop::{EventLoop, EventLoopError};
use vmm::memory::MemoryError;
use vmm::vm::{Vm, VmError};
use vmm::{ThreadStart, memory};

use crate::control::{Disk, MonitorConfig, MonitorEvent, fds};
use crate::jail::{self, JailError, JailHandles};
use crate::seccomp::{self, SeccompError, ThreadKind};
use crate::settings::CachePolicy;
use crate::sys::{inherited, now_ns, use_one_heap};

use inherited::Inherited;
use orders::Started;
use report::Reporter;
use wishes::Wishes;

/// Threads that answer file system requests side by side, beside the one for requests that must not wait.
const FS_WORKERS: usize = 4;
/// Descriptors kept back from the guest's open files: sockets, eventfds, what virtiofsd opens for a moment.
const OWN_DESCRIPTORS: u64 = 4096;
/// Longest configuration line. The command on the other end is trusted; the bound is for defects.
const CONFIG_MAX: u64 = 16 << 20;
/// With this variable set to `stderr`, the guest's console is echoed to standard error.
const CONSOLE_VARIABLE: &str = "SANDBOX_CONSOLE";

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error("the monitor got no configuration: {0}")]
    Config(String),
    #[error("the monitor cannot be confined: {0}")]
    Jail(#[from] JailError),
    #[error("the monitor cannot be confined: {0}")]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Loop(#[from] EventLoopError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Blk(#[from] BlkError),
    #[error("cannot make the vsock device: {0}")]
    Vsock(std::io::Error),
    #[error(transparent)]
    Vm(#[from] VmError),
}

/// Runs the monitor to its end.
pub fn main() -> ExitCode {
    let started = now_ns();
    use_one_heap();
    let Some(inherited) = Inherited::take() else {
        eprintln!("sandbox: `monitor` is started by `sandbox run`, not by hand");
        return ExitCode::FAILURE;
    };
    let Inherited { control, vsock, kernel, initramfs, kvm, disks } = inherited;
    // By itself it would be the name of the link by which this program is executed anew.
    let _ = rustix::thread::set_name(c"sandbox-monitor");
    let Ok(reports) = control.try_clone() else { return ExitCode::FAILURE };
    let reporter = Arc::new(Reporter::new(reports, std::env::var_os(CONSOLE_VARIABLE).is_some_and(|v| v == "stderr")));
    reporter.send(&MonitorEvent::Started { at_ns: started });
    let mut control = BufReader::new(control);
    let result = read_config(&mut control).and_then(|config| {
        let vm = Parts { vsock, kernel, initramfs, kvm, disks };
        start(&config, vm, &reporter)
    });
    match result {
        Ok(started) => {
            started.obey(control.get_ref(), &reporter);
            ExitCode::SUCCESS
        }
        Err(err) => {
            reporter.send(&MonitorEvent::Failed { message: err.to_string() });
            ExitCode::FAILURE
        }
    }
}

/// Runs the process that a container has in the monitor's place whose micro-VM is another's.
pub fn keeper_main() -> ExitCode {
    let Some(control) = inherited(fds::CONTROL).map(UnixStream::from) else {
        eprintln!("sandbox: `keeper` is started by `sandbox run`, not by hand");
        return ExitCode::FAILURE;
    };
    let _ = rustix::thread::set_name(c"sandbox-keeper");
    let Ok(reports) = control.try_clone() else { return ExitCode::FAILURE };
    let reporter = Reporter::new(reports, false);
    let mut control = BufReader::new(control);
    match read_config(&mut control) {
        Ok(config) => keeper::run(&config, control.get_ref(), &reporter),
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_config<T: DeserializeOwned>(control: &mut impl BufRead) -> Result<T, MonitorError> {
    let mut line = String::new();
    control.take(CONFIG_MAX).read_line(&mut line).map_err(|e| MonitorError::Config(e.to_string()))?;
    serde_json::from_str(&line).map_err(|e| MonitorError::Config(e.to_string()))
}

/// What the VM is made from.
struct Parts {
    vsock: std::os::unix::net::UnixListener,
    kernel: File,
    initramfs: File,
    kvm: Kvm,
    disks: Vec<File>,
}

fn start(config: &MonitorConfig, mut parts: Parts, reporter: &Arc<Reporter>) -> Result<Started, MonitorError> {
    let disks = parts.disks.iter().map(File::as_raw_fd);
    let keep: Vec<RawFd> = (fds::CONTROL..fds::DISKS).chain(disks).chain(reporter.descriptor()).collect();
    let jail = jail::enter(&config.shares, &keep)?;
    jail::drop_privileges()?;
    let on_start: ThreadStart = Arc::new(confine_thread);
    let device_loop = EventLoop::start(Arc::clone(&on_start))?;
    let mut vm = Vm::new(
        parts.kvm,
        memory::allocate_growing(config.memory_mib, config.memory_most_mib)?,
        reporter.console().clone(),
    )?;
    vm.add_device(Box::new(share_device(jail, config.cache, &on_start)?))?;
    let on_ready = Arc::clone(reporter);
    let wishes = Wishes::default();
    let vsock = VsockConfig {
        guest_cid: u64::from(GUEST_CID),
        listener: parts.vsock,
        ready_port: READY_PORT,
        on_ready: Box::new(move || on_ready.send(&MonitorEvent::AgentReady { at_ns: now_ns() })),
        bell_port: MEMORY_PORT,
        on_bell: wishes.bell(Arc::clone(reporter)),
    };
    vm.add_device(Box::new(Vsock::new(vsock, device_loop.handle()).map_err(MonitorError::Vsock)?))?;
    vm.add_device(Box::new(Rng::new(device_loop.handle())))?;
    vm.add_device(Box::new(Console::new(reporter.console().clone(), device_loop.handle())))?;
    add_disks(&mut vm, &config.disks, parts.disks, &on_start)?;
    vm.reserve_windows(MAX_INTERFACES)?;
    vm.keep_windows()?;
    reporter.send(&MonitorEvent::VmCreated { at_ns: now_ns() });
    let observer: Arc<Reporter> = Arc::clone(reporter);
    let ready =
        vm.start(config.vcpus, &mut parts.kernel, &mut parts.initramfs, &config.kernel_arguments, &on_start, observer)?;
    let handle = device_loop.handle();
    // The loop runs as long as the process: its destructor would wait for it.
    std::mem::forget(device_loop);
    jail::drop_thread_capabilities()?;
    seccomp::apply(ThreadKind::Main)?;
    Ok(Started::new(ready.go(), handle, wishes))
}

fn add_disks(vm: &mut Vm, disks: &[Disk], files: Vec<File>, on_start: &ThreadStart) -> Result<(), MonitorError> {
    if disks.len() != files.len() {
        return Err(MonitorError::Config(format!("{} block devices were named, {} came", disks.len(), files.len())));
    }
    for (disk, file) in disks.iter().zip(files) {
        let (read_only, block_size) = (disk.read_only, disk.block_size);
        let config = BlkConfig { file, read_only, block_size, serial: disk.serial() };
        vm.add_device(Box::new(Blk::new(config, Arc::clone(on_start))?))?;
    }
    Ok(())
}

fn share_device(jail: JailHandles, cache: CachePolicy, on_start: &ThreadStart) -> Result<Fs, FsError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let config = FsConfig {
        tag: SHARE_TAG.to_owned(),
        root: jail.root,
        proc_self_fd: jail.proc_self_fd,
        workers: FS_WORKERS,
        open_files_max: limit.saturating_sub(OWN_DESCRIPTORS).max(1),
        cache: match cache {
            CachePolicy::Auto => fs::CachePolicy::Auto,
            CachePolicy::Always => fs::CachePolicy::Always,
            CachePolicy::Never => fs::CachePolicy::Never,
        },
        replay: fs::ReplayUids {
            touch: replay_uid::TOUCH,
            make: replay_uid::MAKE,
            drop: replay_uid::DROP,
            file: replay_uid::FILE,
            directory: replay_uid::DIRECTORY,
        },
    };
    Fs::new(config, Arc::clone(on_start))
}

/// The first act of each thread: a thread that cannot be confined takes the process with it.
fn confine_thread(kind: vmm::ThreadKind) {
    let result = match kind {
        vmm::ThreadKind::Fs => seccomp::apply(ThreadKind::Fs).map_err(MonitorError::from),
        vmm::ThreadKind::Vcpu => without_capabilities(ThreadKind::Vcpu),
        vmm::ThreadKind::Devices => without_capabilities(ThreadKind::Devices),
        vmm::ThreadKind::Blk => without_capabilities(ThreadKind::Blk),
    };
    if let Err(err) = result {
        eprintln!("sandbox: {err}");
        std::process::exit(1);
    }
}

fn without_capabilities(kind: ThreadKind) -> Result<(), MonitorError> {
    jail::drop_thread_capabilities()?;
    Ok(seccomp::apply(kind)?)
}
