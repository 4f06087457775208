//! sd_notify(3) for a container, as runc has it: a socket in the container on which a service says that it is ready. The host's service
//! manager is told by the command that started the container, once, of the first message that says READY; all others are dropped.

use std::io;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use agent_protocol::{MAX_NOTIFY, NOTIFY_DIR, NOTIFY_NAME};
use rustix::net::RecvFlags;
use tokio::net::UnixDatagram;

use crate::sockets::Directory;

/// What a message begins with that is passed on.
const READY: &[u8] = b"READY=";

/// The directory that the container sees, and the socket in it.
#[derive(Debug)]
pub struct Notify {
    directory: Mutex<Option<Directory>>,
    /// Taken by who waits.
    socket: Mutex<Option<UnixDatagram>>,
}

impl Notify {
    /// Makes the directory.
    pub fn make(id: &str) -> io::Result<Self> {
        Ok(Self { directory: Mutex::new(Some(Directory::make(NOTIFY_DIR, id)?)), socket: Mutex::default() })
    }

    /// Makes the socket, to which every user of the container may write.
    pub fn open(&self) -> io::Result<()> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = directory.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        directory.remove(NOTIFY_NAME);
        let socket = UnixDatagram::bind(directory.address(NOTIFY_NAME))?;
        directory.set(NOTIFY_NAME, None, 0o777)?;
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    /// Removes the directory. What was said before can still be asked for.
    pub fn close(&self) {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The line that says READY, once: the socket is closed afterwards. Nothing if `ended` comes first.
    pub async fn ready(&self, ended: impl Future<Output = ()>) -> Option<Vec<u8>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let mut buffer = vec![0; MAX_NOTIFY];
        let mut ended = pin!(ended);
        loop {
            let length = tokio::select! {
                received = socket.recv(&mut buffer) => received.ok()?,
                () = &mut ended => break,
            };
            if let Some(line) = ready_line(&buffer[..length]) {
                return Some(line.to_vec());
            }
        }
        // What was sent before the end, whatever the event loop believes.
        while let Ok((length, _)) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            if let Some(line) = buffer.get(..length).and_then(ready_line) {
                return Some(line.to_vec());
            }
        }
        None
    }
}

/// The first line of a message that begins as it should. As with runc the rest of the message is not passed on.
fn ready_line(message: &[u8]) -> Option<&[u8]> {
    message.split(|byte| *byte == b'\n').next().filter(|line| line.starts_with(READY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_with_ready() {
        assert_eq!(ready_line(b"READY=1\nSTATUS=x"), Some(b"READY=1".as_slice()));
        assert_eq!(ready_line(b"READY=1"), Some(b"READY=1".as_slice()));
        for other in [b"STATUS=y\nREADY=1".as_slice(), b"\nREADY=1", b"", b"WATCHDOG=1"] {
            assert_eq!(ready_line(other), None);
        }
    }

    fn notify(directory: &tempfile::TempDir) -> Notify {
        let directory = Directory::make(directory.path().to_str().unwrap(), "box").unwrap();
        Notify { directory: Mutex::new(Some(directory)), socket: Mutex::default() }
    }

    #[tokio::test]
    async fn the_first_one_is_passed_on() {
        let place = tempfile::tempdir().unwrap();
        let notify = notify(&place);
        notify.open().unwrap();
        let path = place.path().join("box").join(NOTIFY_NAME);
        let sender = UnixDatagram::unbound().unwrap();
        for message in ["STATUS=x", "READY=1\nMAINPID=3", "READY=2"] {
            sender.send_to(message.as_bytes(), &path).await.unwrap();
        }
        assert_eq!(notify.ready(std::future::pending()).await.unwrap(), b"READY=1");
        let refused = sender.send_to(b"READY=1", &path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(notify.ready(std::future::pending()).await, None);
        notify.close();
        assert!(!place.path().join("box").exists());
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_passed_on() {
        let place = tempfile::tempdir().unwrap();
        let notify = notify(&place);
        notify.open().unwrap();
        assert_eq!(notify.ready(async {}).await, None);
        notify.open().unwrap();
        let path = place.path().join("box").join(NOTIFY_NAME);
        std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", &path).unwrap();
        notify.close();
        assert_eq!(notify.ready(async {}).await.unwrap(), b"READY=1");
    }
}
