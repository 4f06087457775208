//! What passes on a stream for names (see [`crate::NAMES_PORT`]): the container's ID, with its length before it as two bytes, little-endian;
//! [`LISTENING`] in the other direction; then frames both ways, each a [`Head`] and a DNS message (RFC 1035).

/// What the agent sends once programs can ask.
pub const LISTENING: u8 = 1;

/// The longest ID, in bytes.
pub const LONGEST_ID: usize = 1024;

/// How a question came, and how its answer goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What stands before each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The agent's number for the question, and the answer's.
    pub token: u32,
    /// The question's, and the answer's.
    pub way: Way,
    /// Of the message. An empty answer means that there is none.
    pub length: u16,
}

impl Head {
    /// How long it is itself.
    pub const LENGTH: usize = 7;

    /// Of a message; nothing if that is too long for a frame.
    pub fn of(token: u32, way: Way, message: &[u8]) -> Option<Self> {
        Some(Self { token, way, length: u16::try_from(message.len()).ok()? })
    }

    /// As it is sent: token and length little-endian, between them 0 for UDP and 1 for TCP.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let ([a, b, c, d], [low, high]) = (self.token.to_le_bytes(), self.length.to_le_bytes());
        [a, b, c, d, u8::from(self.way == Way::Tcp), low, high]
    }

    /// As the other side has sent it; nothing for a way that there is not.
    pub fn from_bytes([a, b, c, d, way, low, high]: [u8; Self::LENGTH]) -> Option<Self> {
        let way = match way {
            0 => Way::Udp,
            1 => Way::Tcp,
            _ => return None,
        };
        Some(Self { token: u32::from_le_bytes([a, b, c, d]), way, length: u16::from_le_bytes([low, high]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        let head = Head::of(0x0102_0304, Way::Tcp, b"question").unwrap();
        assert_eq!(head.to_bytes(), [4, 3, 2, 1, 1, 8, 0]);
        assert_eq!(Head::from_bytes(head.to_bytes()), Some(head));
        let other = Head::of(7, Way::Udp, &[0; 0x0201]).unwrap();
        assert_eq!(other.to_bytes(), [7, 0, 0, 0, 0, 1, 2]);
        assert_eq!(Head::from_bytes(other.to_bytes()), Some(other));
        assert_eq!(Head::from_bytes([0, 0, 0, 0, 2, 0, 0]), None);
        assert_eq!(Head::of(0, Way::Udp, &[0; 65_536]), None);
    }
}
