//! The stdio streams that the host has connected: each begins with a token, by which a request claims it.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agent_protocol::STDIO_TIMEOUT_SECONDS;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(STDIO_TIMEOUT_SECONDS);

/// A stream that is there waits longer for its request than a request for its stream: with many at once on a busy machine the
/// requests come late.
const KEEP: Duration = Duration::from_secs(6 * STDIO_TIMEOUT_SECONDS);

/// More connections than this may not wait to be claimed; further ones are closed.
const MAX_UNCLAIMED: usize = 1024;

/// How long the host may take to say which container it means, on streams that are no stdio.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// What the host says first on such a stream, if it does in time.
pub async fn greeting<T>(said: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(GREETING_TIME, said).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A stream that a request names did not come.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not within the time allowed.
    #[error("stdio stream {0:#x} was not connected within {STDIO_TIMEOUT_SECONDS} seconds")]
    Missing(u64),
    /// Two requests, or two fields of one, name the same stream.
    #[error("stdio stream {0:#x} is asked for twice")]
    Twice(u64),
}

enum Slot<S> {
    /// The sender tells the task that keeps the stream of its claim.
    Connected(S, u64, oneshot::Sender<()>),
    Wanted(oneshot::Sender<S>, u64),
}

/// Streams by token. `S` is a vsock stream, or something else in tests.
pub struct Streams<S> {
    slots: Mutex<(u64, HashMap<u64, Slot<S>>)>,
}

impl<S> Default for Streams<S> {
    fn default() -> Self {
        Streams { slots: Mutex::new((0, HashMap::new())) }
    }
}

impl<S: tokio::io::AsyncRead + Unpin> Streams<S> {
    /// Reads the token of a new connection and keeps the stream until it is claimed, for a limited time.
    pub async fn connected(&self, mut stream: S) {
        let mut token = [0; 8];
        if !matches!(timeout(WAIT, stream.read_exact(&mut token)).await, Ok(Ok(_))) {
            log::warn!("a stdio connection sent no token");
            return;
        }
        let token = u64::from_le_bytes(token);
        let Some((serial, claimed)) = self.offer(token, stream) else { return };
        if timeout(KEEP, claimed).await.is_err() && self.forget(token, serial) {
            log::warn!("stdio stream {token:#x} was connected but never asked for");
        }
    }
}

impl<S> Streams<S> {
    /// Hands the stream to whoever waits for the token, or keeps it; then its serial number is returned, and what ends when it is claimed.
    fn offer(&self, token: u64, stream: S) -> Option<(u64, oneshot::Receiver<()>)> {
        let mut guard = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (serial, slots) = &mut *guard;
        match slots.remove(&token) {
            Some(Slot::Wanted(sender, _)) => {
                let _ = sender.send(stream);
                return None;
            }
            Some(taken @ Slot::Connected(..)) => {
                log::warn!("stdio stream {token:#x} is connected twice: the second is closed");
                slots.insert(token, taken);
                return None;
            }
            None => {}
        }
        if token == 0 || slots.values().filter(|s| matches!(s, Slot::Connected(..))).count() >= MAX_UNCLAIMED {
            log::warn!("stdio stream {token:#x} is refused");
            return None;
        }
        *serial += 1;
        let (sender, claimed) = oneshot::channel();
        slots.insert(token, Slot::Connected(stream, *serial, sender));
        Some((*serial, claimed))
    }

    fn forget(&self, token: u64, serial: u64) -> bool {
        let mut guard = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = &mut guard.1;
        match slots.get(&token) {
            Some(Slot::Connected(_, s, _) | Slot::Wanted(_, s)) if *s == serial => slots.remove(&token).is_some(),
            _ => false,
        }
    }

    /// The stream with this token: at once when it is connected already, else when it is.
    pub async fn claim(&self, token: u64) -> Result<S, Error> {
        let (receiver, serial) = {
            let mut guard = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let (serial, slots) = &mut *guard;
            match slots.remove(&token) {
                Some(Slot::Connected(stream, _, task)) => {
                    let _ = task.send(());
                    return Ok(stream);
                }
                Some(wanted @ Slot::Wanted(..)) => {
                    slots.insert(token, wanted);
                    return Err(Error::Twice(token));
                }
                None => {}
            }
            *serial += 1;
            let (sender, receiver) = oneshot::channel();
            slots.insert(token, Slot::Wanted(sender, *serial));
            (receiver, *serial)
        };
        match timeout(WAIT, receiver).await {
            Ok(Ok(stream)) => Ok(stream),
            _ => {
                self.forget(token, serial);
                Err(Error::Missing(token))
            }
        }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
