//! Calls to the guest agent: the client's side of ttrpc over a connected socket.
//!
//! The protocol's messages are the `ttrpc` crate's. Its own client wakes up a hundred times a second for as long as a connection
//! lives, and it tells a deadline from a broken connection in text only; a command that waits for a container should sleep.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protobuf::Message;
use ttrpc::proto::{Codec, MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE, MessageHeader};
use ttrpc::{Code, Request, Response};

use crate::error::shown;

const SERVICE: &str = "sandbox.agent.v1.Agent";
/// How long a guest may take to take a call without a time limit.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Written at once: the time limit of a write counts anew for each piece that the kernel takes, and this is one.
const PIECE: usize = 16 << 10;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The agent's answer is an error.
    #[error("{message}")]
    Status {
        /// The kind of error.
        code: Code,
        /// The agent's sentence.
        message: String,
    },
    /// The connection ended.
    #[error("the connection to the guest agent ended")]
    Closed,
    /// No answer in time.
    #[error("the guest agent did not answer {method} within {} s", .after.as_secs())]
    Timeout {
        /// The call.
        method: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The request is larger than a message may be.
    #[error("the configuration is too large for the guest agent: {0} bytes, and {MESSAGE_LENGTH_MAX} are possible")]
    TooLarge(usize),
    /// A message cannot be encoded or decoded.
    #[error("the guest agent's answer to {method} cannot be read: {reason}")]
    Malformed {
        /// The call.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The connection could not be prepared.
    #[error("connection to the guest agent: {0}")]
    Io(#[from] io::Error),
}

/// Who waits for which answer; nothing once the connection has ended.
type Pending = Mutex<Option<HashMap<u32, SyncSender<Vec<u8>>>>>;

/// A connection to the agent. Calls can be made from several threads at once.
#[derive(Debug)]
pub struct Rpc {
    stream: UnixStream,
    /// Number of the next call. Client calls have odd numbers.
    next: Mutex<u32>,
    pending: Arc<Pending>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rpc {
    /// Takes a connected stream.
    pub fn new(stream: UnixStream) -> Result<Self, RpcError> {
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader = stream.try_clone()?;
        let waiting = pending.clone();
        thread::Builder::new().name("agent replies".to_string()).spawn(move || {
            read_replies(reader, &waiting);
            // Whoever waits sees its channel end.
            locked(&waiting).take();
        })?;
        Ok(Self { stream, next: Mutex::new(1), pending })
    }

    /// Calls a method of the agent. Without `timeout` it waits until the answer comes or the connection ends.
    pub fn call<Q: Message, A: Message>(
        &self,
        method: &'static str,
        request: &Q,
        timeout: Option<Duration>,
    ) -> Result<A, RpcError> {
        let malformed = |reason: String| RpcError::Malformed { method, reason };
        let payload = request.write_to_bytes().map_err(|error| malformed(error.to_string()))?;
        let message = Request {
            service: SERVICE.to_string(),
            method: method.to_string(),
            timeout_nano: timeout.map_or(0, |timeout| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX)),
            payload,
            ..Default::default()
        };
        let bytes = message.encode().map_err(|error| malformed(error.to_string()))?;
        if bytes.len() > MESSAGE_LENGTH_MAX {
            return Err(RpcError::TooLarge(bytes.len()));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        // A call with hooks may take years, but not to be sent.
        let sending = timeout.map_or(SEND_TIMEOUT, |timeout| timeout.min(SEND_TIMEOUT));
        let number = self.send(&bytes, sender, Instant::now() + sending).map_err(|unsent| match unsent {
            Unsent::Closed => RpcError::Closed,
            Unsent::Late => RpcError::Timeout { method, after: sending },
        })?;
        let answer = match timeout {
            None => receiver.recv().map_err(|_| RpcError::Closed),
            Some(after) => receiver.recv_timeout(after).map_err(|error| match error {
                RecvTimeoutError::Timeout => RpcError::Timeout { method, after },
                RecvTimeoutError::Disconnected => RpcError::Closed,
            }),
        }
        .inspect_err(|_| {
            if let Some(pending) = locked(&self.pending).as_mut() {
                pending.remove(&number);
            }
        })?;
        let response = Response::decode(&answer).map_err(|error| malformed(error.to_string()))?;
        if let Some(status) = response.status.as_ref()
            && status.code() != Code::OK
        {
            return Err(RpcError::Status { code: status.code(), message: shown(&status.message) });
        }
        A::parse_from_bytes(&response.payload).map_err(|error| malformed(error.to_string()))
    }

    /// Closes the connection: calls that wait end with [`RpcError::Closed`].
    pub fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// A guest that does not read would hold up whoever writes, and all that wait for their turn.
    fn send(&self, bytes: &[u8], sender: SyncSender<Vec<u8>>, until: Instant) -> Result<u32, Unsent> {
        // Held while writing, so that messages do not mix.
        let mut next = locked(&self.next);
        let number = *next;
        *next = next.wrapping_add(2);
        locked(&self.pending).as_mut().ok_or(Unsent::Closed)?.insert(number, sender);
        let mut frame: Vec<u8> = MessageHeader::new_request(number, bytes.len() as u32).into();
        frame.extend_from_slice(bytes);
        let mut left = frame.as_slice();
        self.write(&mut left, until).inspect_err(|_| {
            if let Some(pending) = locked(&self.pending).as_mut() {
                pending.remove(&number);
            }
            // Nothing can follow a message that was sent in part.
            if left.len() < frame.len() {
                self.close();
            }
        })?;
        Ok(number)
    }

    fn write(&self, bytes: &mut &[u8], until: Instant) -> Result<(), Unsent> {
        while !bytes.is_empty() {
            let left =
                until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or(Unsent::Late)?;
            self.stream.set_write_timeout(Some(left)).map_err(|_| Unsent::Closed)?;
            match (&self.stream).write(bytes.get(..PIECE).unwrap_or(bytes)) {
                Ok(written) => *bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Unsent::Late);
                }
                Err(_) => return Err(Unsent::Closed),
            }
        }
        Ok(())
    }
}

/// Why a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsent {
    Closed,
    Late,
}

impl Drop for Rpc {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hands out answers until the connection ends or breaks the protocol.
fn read_replies(mut stream: UnixStream, pending: &Pending) {
    loop {
        let mut header = [0u8; MESSAGE_HEADER_LENGTH];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let header = MessageHeader::from(header);
        let length = header.length as usize;
        // The guest may say anything; no more memory than the protocol's limit is spent on it.
        if length > MESSAGE_LENGTH_MAX || header.type_ != MESSAGE_TYPE_RESPONSE {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
        let mut payload = vec![0u8; length];
        if stream.read_exact(&mut payload).is_err() {
            return;
        }
        let waiting = locked(pending).as_mut().and_then(|pending| pending.remove(&header.stream_id));
        if let Some(sender) = waiting {
            let _ = sender.send(payload);
        }
    }
}
