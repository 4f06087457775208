//! One connection: bytes both ways, and the end of each direction as the other side made it.

use std::io;
use std::pin::pin;

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::sys;

/// Each direction has one buffer, and reads again only when all of it is written.
const BUFFER: usize = 16 * 1024;

/// Until both directions have ended, or one side is gone altogether. `host_gone` tells whether that is the host.
pub async fn carry(
    client: UnixStream,
    from_host: impl AsyncRead + Unpin,
    to_host: impl AsyncWrite + Unpin,
    host_gone: impl Fn() -> bool,
) {
    let mut sent = pin!(send(&client, to_host));
    let mut received = pin!(receive(from_host, &client));
    tokio::select! {
        () = &mut received => if !host_gone() { sent.await },
        () = &mut sent => tokio::select! {
            () = received => {}
            () = hung_up(&client) => {}
        },
    }
}

/// Client → host, until the client ends it. Where the host takes no more, the client's next write fails.
async fn send(client: &UnixStream, mut host: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = read(client, &mut buffer).await {
        if host.write_all(&buffer[..length]).await.is_err() {
            let _ = rustix::net::shutdown(client, Shutdown::Read);
            return;
        }
    }
    let _ = host.shutdown().await;
}

async fn read(client: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        client.readable().await?;
        match client.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Host → client, until the host ends it or the client takes no more.
async fn receive(mut host: impl AsyncRead + Unpin, client: &UnixStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = host.read(&mut buffer).await {
        if write(client, &buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = rustix::net::shutdown(client, Shutdown::Write);
}

async fn write(client: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        client.writable().await?;
        match client.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns when the client has closed its socket, and not only ended what it sends. With a registration of its own: this one's
/// readiness is cleared again and again.
async fn hung_up(client: &UnixStream) {
    let watched = rustix::io::fcntl_dupfd_cloexec(client, 3).map_err(io::Error::from);
    let watched = watched.and_then(|fd| sys::async_fd_with(fd, Interest::WRITABLE));
    if let Ok(watched) = watched {
        while let Ok(mut ready) = watched.writable().await {
            if ready.ready().is_write_closed() {
                return;
            }
            ready.clear_ready();
        }
    }
    std::future::pending().await
}
