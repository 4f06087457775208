//! Carries the container's questions for names (RFC 1035) to the resolver of its network, which the guest cannot reach: docker's listens on
//! 127.0.0.11 in the container's network namespace on the host, and nowhere else.
//!
//! One stream to the agent ([`NAMES_PORT`]): the container's ID first, which the agent answers with one byte once it listens; then
//! frames in both directions, each with a token, by which the agent knows its question again, and the way that it came: UDP or TCP.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agent_protocol::NAMES_PORT;
use agent_protocol::names::{Head, Way};

use super::NetworkError;
use crate::guest::{ConnectError, GuestError, REACH_TIMEOUT, connect};

/// Where the resolver listens: 127.0.0.11 port 53, or what a rule of the namespace makes of it.
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// The same address as /proc/net shows it.
const RESOLVER_SHOWN: &str = "0B00007F:";
/// Questions under way at once; more are dropped, as by a full queue. A guest may ask without end.
const MOST: usize = 64;
/// How long an answer may take. Resolvers ask again after five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message over UDP that the resolver sends.
const DATAGRAM_MAX: usize = 65_507;

/// Whether this network namespace has such a resolver.
pub fn is_answered() -> bool {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split_ascii_whitespace().nth(1).is_some_and(|local| local.starts_with(RESOLVER_SHOWN)))
}

/// One message on the stream.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    token: u32,
    way: Way,
    message: Vec<u8>,
}

impl Frame {
    /// Reads one; the guest's words are checked here.
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; Head::LENGTH];
        stream.read_exact(&mut head)?;
        let Head { token, way, length } = Head::from_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message)?;
        Ok(Self { token, way, message })
    }

    fn to_bytes(&self) -> Vec<u8> {
        match Head::of(self.token, self.way, &self.message) {
            Some(head) => [head.to_bytes().as_slice(), &self.message].concat(),
            // One that is too long for a frame is answered with nothing.
            None => Head { token: self.token, way: self.way, length: 0 }.to_bytes().to_vec(),
        }
    }
}

/// Begins to carry; returns once the guest's side listens. It ends with the guest.
pub fn start(socket: &Path, id: &str) -> Result<(), NetworkError> {
    let mut stream = connect(socket, NAMES_PORT, REACH_TIMEOUT).map_err(GuestError::from)?;
    greet(&mut stream, id).map_err(|error| GuestError::from(ConnectError::Io(error)))?;
    let answers = stream.try_clone().map_err(NetworkError::scan("names"))?;
    let carry = move || carry(&mut stream, &Arc::new(Mutex::new(answers)));
    thread::Builder::new().name("names".to_string()).spawn(carry).map(drop).map_err(NetworkError::scan("names"))
}

fn greet(stream: &mut UnixStream, id: &str) -> io::Result<()> {
    let length = u16::try_from(id.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes(), id.as_bytes()].concat())?;
    stream.set_read_timeout(Some(REACH_TIMEOUT))?;
    stream.read_exact(&mut [0])?;
    stream.set_read_timeout(None)
}

fn carry(questions: &mut UnixStream, answers: &Arc<Mutex<UnixStream>>) {
    let under_way = Arc::new(AtomicUsize::new(0));
    while let Ok(question) = Frame::read(questions) {
        if under_way.fetch_add(1, Ordering::AcqRel) >= MOST {
            under_way.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (answers, counter) = (answers.clone(), under_way.clone());
        let asked = thread::Builder::new().name("name".to_string()).spawn(move || {
            let answer = ask(RESOLVER, &question).unwrap_or_default();
            let answer = Frame { message: answer, ..question };
            // Whole frames only, one after the other. An error is the guest's end.
            let _ = answers.lock().unwrap_or_else(PoisonError::into_inner).write_all(&answer.to_bytes());
            counter.fetch_sub(1, Ordering::AcqRel);
        });
        if asked.is_err() {
            under_way.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Asks as the program in the guest did, in this thread's network namespace.
fn ask(resolver: SocketAddrV4, question: &Frame) -> io::Result<Vec<u8>> {
    match question.way {
        Way::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(resolver)?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            socket.send(&question.message)?;
            let mut answer = vec![0; DATAGRAM_MAX];
            let length = socket.recv(&mut answer)?;
            answer.truncate(length);
            Ok(answer)
        }
        Way::Tcp => {
            let mut stream = TcpStream::connect_timeout(&resolver.into(), ANSWER_TIMEOUT)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            let length = u16::try_from(question.message.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), question.message.as_slice()].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    fn frame(way: Way) -> Frame {
        Frame { token: 0x0102_0304, way, message: b"question".to_vec() }
    }

    #[test]
    fn frames_are_read_as_they_are_written() {
        let bytes = frame(Way::Tcp).to_bytes();
        assert_eq!(bytes[..7], [4, 3, 2, 1, 1, 8, 0]);
        assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap(), frame(Way::Tcp));
        assert!(Frame::read(&mut &bytes[..10]).is_err());
        assert!(Frame::read(&mut [0, 0, 0, 0, 2, 0, 0].as_slice()).is_err());
        let long = Frame { message: vec![0; 70_000], ..frame(Way::Udp) };
        assert_eq!(long.to_bytes().len(), 7);
    }

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!("bound to an IPv4 address"),
        }
    }

    #[test]
    fn datagrams_are_answered() {
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = v4(resolver.local_addr().unwrap());
        let answering = thread::spawn(move || {
            let mut question = [0; 64];
            let (length, from) = resolver.recv_from(&mut question).unwrap();
            assert_eq!(&question[..length], b"question");
            resolver.send_to(b"answer", from).unwrap();
        });
        assert_eq!(ask(address, &frame(Way::Udp)).unwrap(), b"answer");
        answering.join().unwrap();
    }

    #[test]
    fn streams_are_answered() {
        let resolver = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = v4(resolver.local_addr().unwrap());
        let answering = thread::spawn(move || {
            let (mut stream, _) = resolver.accept().unwrap();
            let mut question = [0; 10];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"\0\x08question");
            stream.write_all(b"\0\x06answer").unwrap();
        });
        assert_eq!(ask(address, &frame(Way::Tcp)).unwrap(), b"answer");
        answering.join().unwrap();
    }
}
