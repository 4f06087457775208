//! The agent's state and its main loop: who listens where.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use agent_protocol::{AGENT_PORT, NAMES_PORT, READY_PORT, STDIO_PORT, WATCH_PORT, agent_ttrpc};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::container::Containers;
use crate::memory::Memory;
use crate::reaper::Reaper;
use crate::rpc::{Service, now_ns};
use crate::streams::Streams;
use crate::{boot, debug_shell, names, sys, watching};

/// What all calls share.
pub struct Agent {
    /// Reaps and reports ended children.
    pub reaper: Reaper,
    /// Stdio streams that wait for a request, and the reverse.
    pub streams: Streams<VsockStream>,
    /// The containers of this guest.
    pub containers: Containers,
    /// How it grows.
    pub memory: Memory,
    /// When the listeners were open, CLOCK_BOOTTIME.
    pub listening_ns: u64,
    /// Set by Shutdown, whose reply is the last thing sent.
    pub ending: AtomicBool,
    replied: AtomicBool,
}

/// Serves for ever; an error is fatal for the guest.
pub async fn run(entered_ns: u64) -> Result<(), boot::Error> {
    let listen = |port| {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
            .map_err(|source| boot::Error::Step { step: "listen on vsock", source })
    };
    let (rpc, stdio, names) = (listen(AGENT_PORT)?, listen(STDIO_PORT)?, listen(NAMES_PORT)?);
    let watches = listen(WATCH_PORT)?;
    let listening_ns = now_ns();
    let mut ready = Box::pin(VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, READY_PORT)));
    // One poll sends the connection request; the answer comes while the mounts are made.
    let answered = poll_once(ready.as_mut());
    boot::rest()?;
    log::debug!(
        "started at {entered_ns} ns, listening at {listening_ns} ns, ready for calls at {} ns of CLOCK_BOOTTIME",
        now_ns()
    );
    let agent = Arc::new(Agent {
        reaper: Reaper::default(),
        streams: Streams::default(),
        containers: Containers::default(),
        memory: Memory::default(),
        listening_ns,
        ending: AtomicBool::new(false),
        replied: AtomicBool::new(false),
    });
    let mut server = ttrpc::asynchronous::Server::new()
        .add_listener(rpc_listener(rpc, agent.clone()))
        .register_service(agent_ttrpc::create_agent(Arc::new(Service(agent.clone()))));
    let failed = |step: &'static str| move |source: io::Error| boot::Error::Step { step, source };
    server.start().await.map_err(io::Error::other).map_err(failed("serve calls"))?;
    tokio::spawn(accept("a stdio stream", stdio, agent.clone(), |stream, agent| async move {
        agent.streams.connected(stream).await
    }));
    tokio::spawn(accept("a stream for names", names, agent.clone(), names::connected));
    tokio::spawn(accept("a stream for watches", watches, agent.clone(), watching::connected));
    debug_shell::start(agent.clone());
    tokio::spawn(async move {
        let connected = match answered {
            Some(result) => result,
            None => ready.await,
        };
        match connected {
            // Kept open for as long as the guest lives.
            Ok(stream) => std::mem::forget(stream),
            Err(error) => log::error!("cannot tell the host that the agent is ready: {error}"),
        }
    });
    agent.reaper.run().await.map_err(failed("wait for signals"))
}

/// Polls a future once, outside of any task's wake-ups: the task that later awaits it registers its own.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Gives each stream to a task of its own.
async fn accept<F>(
    what: &'static str,
    listener: VsockListener,
    agent: Arc<Agent>,
    serve: impl Fn(VsockStream, Arc<Agent>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, agent.clone()))),
            Err(error) => {
                log::warn!("cannot accept {what}: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

fn rpc_listener(listener: VsockListener, agent: Arc<Agent>) -> ttrpc::asynchronous::transport::Listener {
    ttrpc::asynchronous::transport::Listener::new(Accepted { listener, agent })
}

/// Connections as ttrpc wants them: a stream of streams.
struct Accepted {
    listener: VsockListener,
    agent: Arc<Agent>,
}

impl futures_core::Stream for Accepted {
    type Item = io::Result<RpcStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = self.listener.poll_accept(cx);
        accepted.map(|r| Some(r.map(|(stream, _)| RpcStream { stream, agent: self.agent.clone() })))
    }
}

/// A connection that notices when it sends, so that the power is not cut before Shutdown's reply has left.
struct RpcStream {
    stream: VsockStream,
    agent: Arc<Agent>,
}

impl AsyncRead for RpcStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for RpcStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        let last = matches!(written, Poll::Ready(Ok(_))) && self.agent.ending.load(Ordering::Relaxed);
        if last && !self.agent.replied.swap(true, Ordering::Relaxed) {
            tokio::spawn(end_when_sent(rustix::io::dup(&self.stream)));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Resets the machine when the device has taken all that was written (or, where the kernel does not count it, soon).
async fn end_when_sent(socket: Result<std::os::fd::OwnedFd, rustix::io::Errno>) {
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let unsent = socket.as_ref().map(|s| sys::unsent_bytes(std::os::fd::AsFd::as_fd(s)));
        match unsent {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            _ => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                break;
            }
        }
    }
    boot::power_off()
}
