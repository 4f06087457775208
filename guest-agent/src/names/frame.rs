//! What passes between agent and host on a stream for names: after the container's ID, questions one way and answers the other.

use std::io;

use agent_protocol::names::{Head, LONGEST_ID, Way};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A question or an answer: DNS messages (RFC 1035), whose content is the host's affair.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The same in both.
    pub token: u32,
    /// The same in both.
    pub way: Way,
    /// An empty answer means that there is none.
    pub message: Vec<u8>,
}

impl Frame {
    /// The next one.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
        let mut head = [0; Head::LENGTH];
        stream.read_exact(&mut head).await?;
        let Head { token, way, length } = Head::from_bytes(head).ok_or(io::ErrorKind::InvalidData)?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message).await?;
        Ok(Frame { token, way, message })
    }

    /// Sends it. A message that is too long for a frame is not sent.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let Some(head) = Head::of(self.token, self.way, &self.message) else { return Ok(()) };
        let bytes = [head.to_bytes().as_slice(), &self.message].concat();
        stream.write_all(&bytes).await
    }
}

/// The ID with which the host begins.
pub async fn read_id(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let length = usize::from(stream.read_u16_le().await?);
    if !(1..=LONGEST_ID).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut id = vec![0; length];
    stream.read_exact(&mut id).await?;
    String::from_utf8(id).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn frames_are_read_as_they_are_written() {
        block_on(async {
            let frame = Frame { token: 0x0102_0304, way: Way::Tcp, message: b"question".to_vec() };
            let mut bytes = Vec::new();
            frame.write(&mut bytes).await.unwrap();
            assert_eq!(bytes, b"\x04\x03\x02\x01\x01\x08\0question");
            assert_eq!(Frame::read(&mut bytes.as_slice()).await.unwrap(), frame);
            assert!(Frame::read(&mut &bytes[..9]).await.is_err());
            bytes[4] = 2;
            assert!(Frame::read(&mut bytes.as_slice()).await.is_err());
            let mut nothing = Vec::new();
            Frame { message: vec![0; 70_000], ..frame }.write(&mut nothing).await.unwrap();
            assert!(nothing.is_empty());
        });
    }

    #[test]
    fn the_id_comes_first() {
        block_on(async {
            assert_eq!(read_id(&mut b"\x03\0box".as_slice()).await.unwrap(), "box");
            for bad in [b"\0\0".as_slice(), b"\x01\x04x", b"\x03\0bo", b"\x01\0\xff", b"\x01"] {
                assert!(read_id(&mut &*bad).await.is_err(), "{bad:?}");
            }
            let long = [b"\x01\x04".as_slice(), &[b'x'; 1025]].concat();
            assert!(read_id(&mut long.as_slice()).await.is_err());
        });
    }
}
