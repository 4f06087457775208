//! sd_notify(3): a service manager asks by NOTIFY_SOCKET to be told when a service is ready. As with runc a container gets a socket in
//! /run/notify to say so, and the command that starts it tells the manager: it is one of the service's processes, whatever cgroup the
//! container lives in, and it is back once that is done.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use agent_protocol::{MAX_NOTIFY, NOTIFY_DIR, NOTIFY_NAME};
use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::descriptors;
use crate::error::Plain;
use crate::guest::Guest;

const VARIABLE: &str = "NOTIFY_SOCKET";
/// Where the container sees the socket.
const PLACE: &str = "/run/notify";
/// How long the manager may take to take a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to read all of them.
const READ_TIMEOUT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// NOTIFY_SOCKET leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE} {}: {}", .address.display(), Plain(.source))]
pub struct NotifyError {
    address: OsString,
    source: io::Error,
}

/// Whether somebody asks to be told.
pub fn is_asked() -> bool {
    address().is_some()
}

fn address() -> Option<OsString> {
    env::var_os(VARIABLE).filter(|address| !address.is_empty())
}

/// Gives a container's process the socket of its agent's.
pub fn add_to(spec: &mut Spec, id: &str) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mut mount = Mount::default();
    mount.set_destination(PLACE.into()).set_typ(Some("bind".to_owned()));
    mount.set_source(Some(Path::new(NOTIFY_DIR).join(id))).set_options(Some(options));
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("{VARIABLE}={PLACE}/{NOTIFY_NAME}"));
        process.set_env(Some(env));
    }
}

/// Who asks to be told.
#[derive(Debug)]
pub struct Manager(UnixDatagram);

impl Manager {
    /// Whom this process's environment names, if anybody.
    pub fn find() -> Result<Option<Self>, NotifyError> {
        let Some(address) = address() else { return Ok(None) };
        let found = Self::at(address.as_bytes());
        found.map(Some).map_err(|source| NotifyError { address, source })
    }

    fn at(address: &[u8]) -> io::Result<Self> {
        let address = match address {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(address)))?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self(socket))
    }

    /// Waits until the container says that it is ready, and tells; or until it has ended. Its process is `pid` on the host.
    pub fn tell_when_ready(&self, guest: &Guest, pid: u32) {
        // An error means that the guest has ended.
        let Ok(line) = guest.wait_ready() else { return };
        if line.is_empty() {
            return;
        }
        if !is_ready(&line) {
            return log::warn!("the guest said something else than that it is ready");
        }
        self.tell(&line, pid).unwrap_or_else(|error| log::warn!("{VARIABLE}: {}", Plain(&error)));
    }

    /// What runc sends; at last a pipe that the manager closes (`BARRIER=1`): when this process ends before it has read what was sent,
    /// it does not know any more who sent it.
    fn tell(&self, line: &[u8], pid: u32) -> io::Result<()> {
        let Self(socket) = self;
        socket.send(&[line, b"\n"].concat())?;
        socket.send(format!("MAINPID={pid}\n").as_bytes())?;
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        descriptors::send(socket.as_fd(), &[theirs.as_fd()], b"BARRIER=1")?;
        drop(theirs);
        poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&READ_TIMEOUT))?;
        Ok(())
    }
}

/// The guest may answer what it likes: a second line could name another MAINPID.
fn is_ready(line: &[u8]) -> bool {
    line.len() <= MAX_NOTIFY && line.starts_with(b"READY=") && !line.iter().any(u8::is_ascii_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_gets_what_runc_gives_it() {
        let spec =
            json!({"ociVersion": "1.2.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["A=b"]}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        add_to(&mut spec, "box");
        let shown = serde_json::to_value(&spec).unwrap();
        let mount = json!({"destination": "/run/notify", "type": "bind", "source": "/run/sandbox/notify/box",
            "options": ["bind", "nosuid", "noexec", "nodev", "ro"]});
        assert_eq!(shown["mounts"], json!([mount]));
        assert_eq!(shown["process"]["env"], json!(["A=b", "NOTIFY_SOCKET=/run/notify/notify.sock"]));
    }

    #[test]
    fn one_line_and_no_other() {
        assert!(is_ready(b"READY=1"));
        for other in
            [b"READY=1\nMAINPID=1".as_slice(), b"STATUS=x", b"", &[b"READY=".as_slice(), &[b'1'; 4096]].concat()]
        {
            assert!(!is_ready(other));
        }
    }

    #[test]
    fn the_manager_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(path.as_os_str().as_bytes()).unwrap();
        let reading = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            // Without room for descriptors the kernel closes them.
            let mut read = || listener.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap();
            [read(), read(), read()]
        });
        manager.tell(b"READY=1", 4711).unwrap();
        assert_eq!(reading.join().unwrap(), [b"READY=1\n".to_vec(), b"MAINPID=4711\n".to_vec(), b"BARRIER=1".to_vec()]);
    }

    #[test]
    fn addresses() {
        let name = format!("sandbox-notify-test-{}", std::process::id());
        let _listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::at(format!("@{name}").as_bytes()).unwrap();
        for wrong in ["vsock:2:1234", "relative", "/nonexistent/socket"] {
            assert!(Manager::at(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
