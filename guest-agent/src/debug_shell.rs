//! A shell for developers, in a guest whose initramfs holds busybox (`rootfs-builder --debug`); no other guest listens.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use agent_protocol::DEBUG_PORT;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use crate::agent::Agent;
use crate::stdio;

const BUSYBOX: &str = "/bin/busybox";

/// Listens when there is a shell to offer.
pub fn start(agent: Arc<Agent>) {
    if !Path::new(BUSYBOX).exists() {
        return;
    }
    match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, DEBUG_PORT)) {
        Ok(listener) => {
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    if let Err(error) = serve(&agent, stream) {
                        log::warn!("cannot start the debug shell: {error}");
                    }
                }
            });
        }
        Err(error) => log::warn!("cannot listen for the debug shell: {error}"),
    }
}

fn serve(agent: &Agent, stream: VsockStream) -> std::io::Result<()> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    unlockpt(&master)?;
    let slave: OwnedFd = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    // `setsid -c` makes the terminal the shell's own.
    let child = Command::new(BUSYBOX)
        .args(["setsid", "-c", BUSYBOX, "sh", "-i"])
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave))
        .env("PATH", "/bin")
        .env("TERM", "linux")
        .spawn()?;
    drop(agent.reaper.watch(rustix::process::Pid::from_child(&child)));
    tokio::spawn(stdio::terminal(
        stdio::master(master)?,
        stream,
        stdio::Sent::new(tokio::sync::oneshot::channel().0, None),
    ));
    Ok(())
}
