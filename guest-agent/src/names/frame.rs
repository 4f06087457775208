//! What passes between agent and host on a stream for names: after the container's ID, questions one way and answers the other.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An ID is 1 to 1024 bytes.
const LONGEST_ID: usize = 1024;

/// How a question came, and how its answer goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

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
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let [a, b, c, d, way, low, high] = head;
        let way = match way {
            0 => Way::Udp,
            1 => Way::Tcp,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mut message = vec![0; u16::from_le_bytes([low, high]).into()];
        stream.read_exact(&mut message).await?;
        Ok(Frame { token: u32::from_le_bytes([a, b, c, d]), way, message })
    }

    /// Sends it. A message that is too long for a frame is not sent.
    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let Ok(length) = u16::try_from(self.message.len()) else { return Ok(()) };
        let way = u8::from(self.way == Way::Tcp);
        let bytes = [&self.token.to_le_bytes(), [way].as_slice(), &length.to_le_bytes(), &self.message].concat();
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
