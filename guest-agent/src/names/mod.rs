//! Answers programs of a container that ask 127.0.0.11 for names: docker's resolver listens there, but on the host, in the network
//! namespace that the container has there. The host connects a stream for each container, on which questions go out and answers come
//! back; in the container's namespace the agent has two sockets, to which [`redirect`] leads.
//!
//! The programs can send whatever they like, and as much. All is bounded: questions under way, connections, and what waits to be sent;
//! beyond that the kernel's own queues fill up.

mod frame;
mod questions;
mod redirect;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_protocol::names::LISTENING;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_vsock::VsockStream;

use crate::agent::Agent;
use crate::container::{self, Container};
use crate::network;
use crate::streams;
use frame::{Frame, read_id};
use questions::{Asker, Questions};
use redirect::Redirection;

/// A question in a datagram is not longer.
const LONGEST_DATAGRAM: usize = 4096;

/// Questions that wait until the host takes them.
const MOST_WAITING: usize = 16;

/// Names could not be carried.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A stream that did not begin as it should.
    #[error("the host did not say which container it means: {0}")]
    Greeting(io::Error),
    /// The one that it means.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// It can ask the host's resolver only by way of a namespace of its own.
    #[error("container {0:?} has no network namespace of its own")]
    Shared(String),
    /// In the container's namespace.
    #[error("cannot listen on {address}: {0}", address = redirect::ADDRESS)]
    Listen(io::Error),
    /// The host went away at once.
    #[error("cannot tell the host: {0}")]
    Tell(io::Error),
}

/// Carries names on a stream from the host until its end, or that of the container.
pub async fn connected(stream: VsockStream, agent: Arc<Agent>) {
    if let Err(error) = serve(stream, &agent).await {
        log::warn!("names are not carried: {error}");
    }
}

async fn serve(mut stream: VsockStream, agent: &Agent) -> Result<(), Error> {
    let id = streams::greeting(read_id(&mut stream)).await.map_err(Error::Greeting)?;
    let container = agent.containers.get(&id)?;
    let (sockets, _redirection) = listen(&container, id)?;
    stream.write_all(&[LISTENING]).await.map_err(Error::Tell)?;
    let (from_host, to_host) = stream.into_split();
    tokio::select! {
        () = container.exited() => {}
        () = carry(from_host, to_host, sockets) => {}
    }
    Ok(())
}

/// Sockets that programs of the container reach at the resolver's address.
fn listen(container: &Container, id: String) -> Result<(Sockets, Option<Redirection>), Error> {
    let namespace = container.network_namespace()?.ok_or(Error::Shared(id))?;
    let sockets = network::inside(Some(&namespace), Sockets::bind).map_err(Error::Listen)?;
    let cgroup = container.cgroup_directory()?;
    let redirection = Redirection::begin(&sockets, cgroup.as_fd()).inspect_err(|error| {
        log::warn!("programs that ask {} will get no answer: {error}", redirect::ADDRESS);
    });
    Ok((sockets, redirection.ok()))
}

/// What programs are led to.
struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// In the network namespace where the agent is now, at ports of the kernel's choice.
    fn bind() -> io::Result<Sockets> {
        let address = SocketAddr::from((redirect::ADDRESS, 0));
        let (udp, tcp) = (std::net::UdpSocket::bind(address)?, std::net::TcpListener::bind(address)?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Sockets { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }
}

/// What all that ask have in common.
struct Carrier {
    questions: Mutex<Questions>,
    to_host: mpsc::Sender<Frame>,
}

impl Carrier {
    /// Sends a question to the host as soon as it takes it; false when there are too many.
    async fn ask(&self, asker: Asker, message: Vec<u8>) -> bool {
        let way = asker.way();
        let token = self.questions.lock().unwrap_or_else(PoisonError::into_inner).add(asker);
        match token {
            Some(token) => self.to_host.send(Frame { token, way, message }).await.is_ok(),
            None => false,
        }
    }
}

/// Until the host's side is closed.
async fn carry(from_host: impl AsyncRead + Unpin, to_host: impl AsyncWrite + Unpin, sockets: Sockets) {
    let (sender, waiting) = mpsc::channel(MOST_WAITING);
    let carrier = Arc::new(Carrier { questions: Mutex::default(), to_host: sender });
    let Sockets { udp, tcp } = sockets;
    tokio::select! {
        () = send(waiting, to_host) => {}
        () = answer(from_host, &udp, &carrier) => {}
        () = datagrams(&udp, &carrier) => {}
        () = tcp::accept(tcp, carrier.clone()) => {}
    }
}

/// Questions to the host.
async fn send(mut waiting: mpsc::Receiver<Frame>, mut to_host: impl AsyncWrite + Unpin) {
    while let Some(frame) = waiting.recv().await {
        if frame.write(&mut to_host).await.is_err() {
            return;
        }
    }
}

/// Answers to those who asked.
async fn answer(mut from_host: impl AsyncRead + Unpin, udp: &UdpSocket, carrier: &Carrier) {
    while let Ok(Frame { token, way, message }) = Frame::read(&mut from_host).await {
        let asker = carrier.questions.lock().unwrap_or_else(PoisonError::into_inner).take(token, way);
        match asker {
            // One that cannot be sent is lost, as datagrams are.
            Some(Asker::Udp(to)) if !message.is_empty() => drop(udp.try_send_to(&message, to)),
            Some(Asker::Tcp(place)) => drop(place.send(message)),
            _ => {}
        }
    }
}

/// Questions in datagrams.
async fn datagrams(udp: &UdpSocket, carrier: &Carrier) {
    let mut buffer = vec![0; LONGEST_DATAGRAM + 1];
    loop {
        match udp.recv_from(&mut buffer).await {
            Ok((length @ ..=LONGEST_DATAGRAM, from)) => {
                carrier.ask(Asker::Udp(from), buffer[..length].to_vec()).await;
            }
            Ok(_) => {}
            Err(error) => wait_after_error(error).await,
        }
    }
}

/// Lest an error that stays keeps the agent busy.
async fn wait_after_error(error: io::Error) {
    log::debug!("a socket for names: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
