//! Carries a container's input and output between its pipes (or terminal) and vsock streams.
//!
//! Each direction has one buffer of fixed size and reads again only when all of it is written, so a slow side slows the
//! other down and nothing piles up.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, pipe};
use tokio::sync::{oneshot, watch};
use tokio_vsock::VsockStream;

use crate::reaper::Exit;

const BUFFER: usize = 128 * 1024;

/// Large pipes mean few switches between the container and the agent.
const PIPE: usize = 512 * 1024;

/// One of a container's three descriptors: what the container gets.
pub struct Inherited(pub OwnedFd);

/// A pipe from the agent to the container.
pub fn input() -> io::Result<(pipe::Sender, Inherited)> {
    let (read, write) = container_pipe()?;
    fcntl_setfl(&write, OFlags::NONBLOCK)?;
    Ok((pipe::Sender::from_owned_fd(write)?, Inherited(read)))
}

/// A pipe from the container to the agent.
pub fn output() -> io::Result<(pipe::Receiver, Inherited)> {
    let (read, write) = container_pipe()?;
    fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((pipe::Receiver::from_owned_fd(read)?, Inherited(write)))
}

fn container_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&read, PIPE); // only speed
    Ok((read, write))
}

/// Host → container, until the host ends its side or the container closes its standard input.
pub async fn feed(mut host: VsockStream, mut container: pipe::Sender) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            read = host.read(&mut buffer) => read,
            // The last reader of the pipe is gone.
            _ = container.ready(Interest::ERROR) => break,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if container.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(container);
    let _ = host.shutdown(Shutdown::Both);
}

/// Tells when all output has been sent: at its end; or, when there is an exit to wait for, once the process has exited and
/// what it had written is sent. What it left running may keep the stream open for as long as it likes.
pub struct Sent {
    sent: Option<oneshot::Sender<()>>,
    exit: Option<watch::Receiver<Option<Exit>>>,
}

impl Sent {
    /// The receiver is told, or finds the sender gone.
    pub fn new(sent: oneshot::Sender<()>, exit: Option<watch::Receiver<Option<Exit>>>) -> Sent {
        Sent { sent: Some(sent), exit }
    }

    /// Whether the process has exited and nothing was said yet.
    fn is_due(&self) -> bool {
        self.exit.as_ref().is_some_and(|exit| exit.borrow().is_some())
    }

    /// All is sent.
    fn tell(&mut self) {
        self.exit = None;
        self.sent.take().map(|sent| sent.send(()));
    }

    /// Returns when the process has exited, once.
    async fn exited(&mut self) {
        if let Some(exit) = &mut self.exit
            && exit.wait_for(Option::is_some).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// What output is read from.
enum Output {
    Pipe(pipe::Receiver),
    Terminal(Master),
    Socket(OwnedReadHalf),
}

impl Output {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Output::Pipe(pipe) => pipe.try_read(buffer),
            Output::Socket(socket) => socket.try_read(buffer),
            Output::Terminal(master) => master.try_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)),
        }
    }

    /// The same, whatever the event loop believes. Reading a terminal takes along what is still on its way through the kernel.
    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(match self {
            Output::Pipe(pipe) => rustix::io::read(pipe, &mut *buffer)?,
            Output::Socket(socket) => rustix::io::read(socket.as_ref(), &mut *buffer)?,
            Output::Terminal(master) => rustix::io::read(master.get_ref(), &mut *buffer)?,
        })
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Output::Pipe(pipe) => pipe.readable().await,
            Output::Socket(socket) => socket.readable().await,
            Output::Terminal(master) => master.readable().await.map(drop),
        }
    }
}

/// Container → host, until all writers have closed; then the host sees the end of the stream.
pub async fn drain(container: pipe::Receiver, mut host: VsockStream, sent: Sent) {
    copy(Output::Pipe(container), &mut host, sent).await;
    let _ = host.shutdown(Shutdown::Write);
    wait_for_peer(host);
}

/// Both directions of a socket; each ends by itself.
pub async fn socket(process: UnixStream, host: VsockStream, sent: Sent) {
    let (mut from_host, mut to_host) = host.into_split();
    let (from_process, mut to_process) = process.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n @ 1..) = from_host.read(&mut buffer).await {
            if to_process.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        // Dropping it ends the direction to the process.
    });
    copy(Output::Socket(from_process), &mut to_host, sent).await;
    let _ = to_host.shutdown().await;
}

/// Keeps the stream until the host has seen its end: a stream that is dropped with data in flight is reset.
fn wait_for_peer(host: VsockStream) {
    tokio::spawn(async move {
        let mut host = host;
        let _ = tokio::time::timeout(LINGER, host.read(&mut [0; 1])).await;
    });
}

/// How long a finished stream waits for the host to close it.
const LINGER: std::time::Duration = std::time::Duration::from_secs(30);

/// Closes its side of the container's output when it returns: a container that goes on writing gets EPIPE when the host is
/// gone.
async fn copy(from: Output, to: &mut (impl AsyncWrite + Unpin), mut sent: Sent) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match from.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent.is_due() => from.read_now(&mut buffer),
            read => read,
        };
        match read {
            Ok(0) => return,
            Ok(n) => {
                if let Err(error) = to.write_all(&buffer[..n]).await {
                    log::debug!("the host closed an output stream: {error}");
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if sent.is_due() {
                    sent.tell();
                }
                tokio::select! {
                    readable = from.readable() => if readable.is_err() { return },
                    () = sent.exited() => {}
                }
            }
            // EIO: no slave of the terminal is open any more.
            Err(_) => return,
        }
    }
}

/// The agent's side of a container's terminal.
pub type Master = Arc<AsyncFd<OwnedFd>>;

/// Makes the master side usable by [`terminal`].
pub fn master(fd: OwnedFd) -> io::Result<Master> {
    fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    Ok(Arc::new(crate::sys::async_fd(fd)?))
}

/// Both directions of a terminal; ends when the last process has closed the slave side.
pub async fn terminal(master: Master, host: VsockStream, sent: Sent) {
    let (mut from_host, mut to_host) = host.into_split();
    let input = tokio::spawn({
        let master = master.clone();
        async move {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = from_host.read(&mut buffer).await {
                if write_master(&master, &buffer[..n]).await.is_err() {
                    break;
                }
            }
            // The host hangs up: the container keeps its terminal, as it does when runc's caller goes away.
            from_host
        }
    });
    copy(Output::Terminal(master), &mut to_host, sent).await;
    let _ = to_host.shutdown().await;
    tokio::spawn(async move {
        let stop = input.abort_handle();
        let _ = tokio::time::timeout(LINGER, input).await;
        stop.abort();
        drop(to_host);
    });
}

async fn write_master(master: &Master, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = master.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
        bytes = &bytes[n..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_the_process_wrote_is_sent_before_it_is_said_so() {
        block_on(async {
            let (reader, inherited) = output().unwrap();
            let (exited, exit) = watch::channel(None);
            let (sender, mut sent) = oneshot::channel();
            let (mut host, mut to_host) = tokio::io::duplex(BUFFER);
            let task = tokio::spawn(async move {
                copy(Output::Pipe(reader), &mut to_host, Sent::new(sender, Some(exit))).await;
            });
            rustix::io::write(&inherited.0, b"before").unwrap();
            tokio::task::yield_now().await;
            assert!(sent.try_recv().is_err(), "the process runs");
            rustix::io::write(&inherited.0, b" its end").unwrap();
            exited.send(Some(Exit { status: 0, signal: 0, at_ns: 0 })).unwrap();
            (&mut sent).await.unwrap();
            let mut buffer = [0; 100];
            let n = host.read(&mut buffer).await.unwrap();
            let mut got = buffer[..n].to_vec();
            if got.len() < 14 {
                let n = host.read(&mut buffer).await.unwrap();
                got.extend(&buffer[..n]);
            }
            assert_eq!(got, b"before its end");
            // One that it left running goes on writing.
            rustix::io::write(&inherited.0, b"after").unwrap();
            let n = host.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..n], b"after");
            drop(inherited);
            task.await.unwrap();
        });
    }

    #[test]
    fn without_an_exit_only_the_end_counts() {
        block_on(async {
            let (reader, inherited) = output().unwrap();
            let (sender, mut sent) = oneshot::channel::<()>();
            let mut to_host = Vec::new();
            rustix::io::write(&inherited.0, b"all").unwrap();
            let writer = tokio::spawn(async move {
                tokio::task::yield_now().await;
                drop(inherited);
            });
            copy(Output::Pipe(reader), &mut to_host, Sent::new(sender, None)).await;
            writer.await.unwrap();
            assert_eq!(to_host, b"all");
            assert!(matches!(sent.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        });
    }
}
