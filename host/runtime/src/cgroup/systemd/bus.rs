//! A connection to systemd: through the system's message bus, or where there is none through systemd's own socket.
//!
//! It lives for one command's few calls, blocks, has no thread, and its descriptor is closed on exec.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use zbus::{OwnedVariant, Type};

use super::message::{self, Message, Method};
use crate::error::Plain;

/// The bus first: it is what systemd documents. Its own socket answers root where no bus runs, or the bus hangs.
const ADDRESSES: [(&str, Kind, Duration); 2] = [
    ("/run/dbus/system_bus_socket", Kind::Bus, Duration::from_secs(10)),
    ("/run/systemd/private", Kind::Private, PATIENCE),
];
/// For all calls and the job, and for systemd to accept a connection: a machine that is starting has many.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest line of the handshake.
const LINE: usize = 1024;

const MANAGER: Method<'static> = Method {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    name: "",
};
const BROKER: Method<'static> = Method {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
    name: "",
};
const JOB_REMOVED: &str = "JobRemoved";
const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Why systemd did not do something.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The socket.
    #[error("{}", Plain(.0))]
    Io(#[from] io::Error),
    /// Time is up.
    #[error("it did not answer in time")]
    Silent,
    /// Not who is expected there.
    #[error("it does not accept the connection")]
    Handshake,
    /// Not a message, or not this one.
    #[error("a message of D-Bus: {0}")]
    Message(#[from] zbus::Error),
    /// An error for an answer.
    #[error("{text}")]
    Refused {
        /// The error's, for programs.
        name: String,
        /// The error's, for people.
        text: String,
    },
    /// The job ended in another way than `done`.
    #[error("its job ended with `{0}`")]
    Job(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bus,
    Private,
}

/// A connection to systemd.
pub struct Bus {
    stream: UnixStream,
    kind: Kind,
    serial: u32,
    deadline: Instant,
    /// Its unique name on the bus. Everybody may send signals there.
    systemd: Option<String>,
    /// systemd's version.
    pub version: u32,
    /// Jobs that have ended, with their results.
    ended: Vec<(String, String)>,
}

impl Bus {
    /// To systemd, in the first way that it answers on.
    pub fn connect() -> Result<Self, BusError> {
        let mut last = BusError::Silent;
        for (path, kind, patience) in ADDRESSES {
            match Self::connect_to(path, kind, patience) {
                Ok(bus) => return Ok(bus),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn connect_to(path: &str, kind: Kind, patience: Duration) -> Result<Self, BusError> {
        let (stream, deadline) = (open(path, patience)?, Instant::now() + patience);
        let mut bus = Self { stream, kind, serial: 0, deadline, systemd: None, version: 0, ended: Vec::new() };
        bus.authenticate()?;
        if kind == Kind::Bus {
            bus.call(Method { name: "Hello", ..BROKER }, &())?;
        }
        bus.greet()?;
        bus.deadline = Instant::now() + PATIENCE;
        Ok(bus)
    }

    /// The kernel tells the other side who this is; it only wants to hear it. The end goes with the beginning: a call that
    /// systemd reads together with the end would wait there until something follows it.
    fn authenticate(&mut self) -> Result<(), BusError> {
        let user: String =
            rustix::process::geteuid().as_raw().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
            if line.len() > LINE {
                return Err(BusError::Handshake);
            }
        }
        if line.starts_with(b"OK ") { Ok(()) } else { Err(BusError::Handshake) }
    }

    /// Learns whether systemd is there, and which.
    fn greet(&mut self) -> Result<(), BusError> {
        let get = Method { interface: "org.freedesktop.DBus.Properties", name: "Get", ..MANAGER };
        let answer = self.call(get, &(MANAGER.interface, "Version"))?;
        let (version,): (OwnedVariant,) = answer.values()?;
        let version = version.downcast_ref::<String>()?;
        let number: String = version.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        self.version = number.parse().unwrap_or(0);
        self.systemd = answer.sender;
        Ok(())
    }

    /// From now on the ends of jobs are told.
    pub fn subscribe(&mut self) -> Result<(), BusError> {
        if self.kind == Kind::Bus {
            self.call(Method { name: "AddMatch", ..BROKER }, &(JOBS,))?;
            self.manager("Subscribe", &())?;
        }
        Ok(())
    }

    /// Calls a method of systemd's manager.
    pub fn manager<B: Serialize + Type>(&mut self, name: &str, body: &B) -> Result<Message, BusError> {
        self.call(Method { name, ..MANAGER }, body)
    }

    /// Calls a method of the manager that makes a job, and waits for the end of that.
    pub fn job<B: Serialize + Type>(&mut self, name: &str, body: &B) -> Result<(), BusError> {
        let answer = self.manager(name, body)?;
        let (job,): (zbus::OwnedObjectPath,) = answer.values()?;
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| *ended == job.as_str()) {
                return if result == "done" { Ok(()) } else { Err(BusError::Job(result.clone())) };
            }
            let message = self.receive()?;
            self.note(&message)?;
        }
    }

    fn call<B: Serialize + Type>(&mut self, method: Method<'_>, body: &B) -> Result<Message, BusError> {
        self.serial += 1;
        let bytes = message::call(method, self.serial, body)?;
        self.write(&bytes)?;
        loop {
            let message = self.receive()?;
            if message.answers == Some(self.serial) {
                return message.success();
            }
            self.note(&message)?;
        }
    }

    fn note(&mut self, message: &Message) -> Result<(), BusError> {
        if message.is_signal(JOB_REMOVED) && message.sender == self.systemd {
            let (_, job, _, result): (u32, zbus::OwnedObjectPath, String, String) = message.values()?;
            self.ended.push((job.to_string(), result));
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Message, BusError> {
        let mut start = [0; message::FIXED];
        self.read(&mut start)?;
        let mut bytes = start.to_vec();
        bytes.resize(message::length(&start)?, 0);
        self.read(bytes.get_mut(message::FIXED..).unwrap_or_default())?;
        Message::parse(bytes)
    }

    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), BusError> {
        while !buffer.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => buffer = buffer.get_mut(read..).unwrap_or_default(),
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), BusError> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match self.stream.write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    fn left(&self) -> Result<Duration, BusError> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(BusError::Silent),
            left => Ok(left),
        }
    }
}

/// A connected socket. Connecting waits, too, where nobody accepts.
fn open(path: &str, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn retry(error: io::Error) -> Result<(), BusError> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(BusError::Silent),
        _ => Err(error.into()),
    }
}
