//! What passes between host and agent so that programs in the guest that watch shared files (inotify(7)) see what the host changes
//! (docs/watching.md): the host connects to [`WATCH_PORT`](crate::WATCH_PORT) and sends a [`Greeting`]; then the agent says what is watched,
//! and the host what has happened, each in [`Message`]s. Numbers are little-endian.

use std::io;

/// Watches that a container can have on shared files at once; what it watches beyond that sees the guest's own changes only.
pub const MAX_WATCHES: usize = 4096;
/// Longest path below a share.
pub const MAX_PATH: usize = 4096;
/// Longest name.
pub const MAX_NAME: usize = 255;
/// Longest message, without its length.
pub const MAX_MESSAGE: usize = 32 + MAX_PATH;
/// Shares that can be watched.
pub const MAX_SHARES: usize = 256;

/// The users in whose name the agent makes the system calls whose only purpose is that the guest's kernel tells its watchers. The file server
/// answers their requests without touching a file. No container has processes of theirs: engines take no users from 2^31 on.
pub mod replay_uid {
    /// Files are looked up as they are; changes of attributes and opening are only said to be done.
    pub const TOUCH: u32 = 0xffff_5200;
    /// There is no file of any name; making one is only said to be done.
    pub const MAKE: u32 = 0xffff_5201;
    /// There is no file of any name, and none can be made.
    pub const DROP: u32 = 0xffff_5202;
    /// Each name is a file's; removing and renaming it is only said to be done.
    pub const FILE: u32 = 0xffff_5203;
    /// Each name is a directory's; removing and renaming it is only said to be done.
    pub const DIRECTORY: u32 = 0xffff_5204;
}

/// Events, as inotify(7) numbers them.
pub mod event {
    /// A file's content was changed.
    pub const MODIFY: u32 = 0x2;
    /// Attributes were changed.
    pub const ATTRIB: u32 = 0x4;
    /// A file that was open for writing was closed.
    pub const CLOSE_WRITE: u32 = 0x8;
    /// A name has moved away.
    pub const MOVED_FROM: u32 = 0x40;
    /// A name has moved here.
    pub const MOVED_TO: u32 = 0x80;
    /// A name was made.
    pub const CREATE: u32 = 0x100;
    /// A name was removed.
    pub const DELETE: u32 = 0x200;
    /// The watched object was removed.
    pub const DELETE_SELF: u32 = 0x400;
    /// The name is a directory's.
    pub const ISDIR: u32 = 0x4000_0000;
    /// Those that the host reports.
    pub const REPORTED: u32 = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE;
}

/// How the host begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The container's ID.
    pub id: String,
    /// What can be watched: names of shares, as below `SHARE_DIR`. Later messages count them from 0.
    pub shares: Vec<String>,
}

/// A name in a watched directory, or the watched object itself, whose name is empty here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The watch's number.
    pub watch: u32,
    /// The name.
    pub name: Vec<u8>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The agent: something new is watched, or is watched for other events.
    Watch {
        /// The agent's number for it.
        watch: u32,
        /// Which share.
        share: u16,
        /// For which events.
        mask: u32,
        /// Where it is in the share, relative; empty for the share itself.
        path: Vec<u8>,
    },
    /// The agent: this is not watched any more.
    Unwatch {
        /// Its number.
        watch: u32,
    },
    /// The host: this has happened.
    Event(Event),
}

/// Something that has happened on the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Events, and [`event::ISDIR`].
    pub mask: u32,
    /// Where.
    pub place: Place,
    /// Of [`event::MOVED_FROM`] and [`event::MOVED_TO`] together: where it is now.
    pub to: Option<Place>,
}

const WATCH: u8 = 1;
const UNWATCH: u8 = 2;
const EVENT: u8 = 3;

impl Greeting {
    /// As it is sent, its length before it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for text in std::iter::once(&self.id).chain(self.shares.iter().take(MAX_SHARES)) {
            put(&mut body, text.as_bytes());
        }
        framed(&body)
    }

    /// From what followed the length.
    pub fn parse(mut body: &[u8]) -> Option<Self> {
        let mut texts = Vec::new();
        while !body.is_empty() && texts.len() <= MAX_SHARES {
            texts.push(String::from_utf8(take(&mut body)?.to_vec()).ok()?);
        }
        let mut texts = texts.into_iter();
        Some(Greeting { id: texts.next()?, shares: texts.collect() })
    }
}

impl Message {
    /// As it is sent, its length before it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Message::Watch { watch, share, mask, path } => {
                body.push(WATCH);
                body.extend(watch.to_le_bytes());
                body.extend(share.to_le_bytes());
                body.extend(mask.to_le_bytes());
                put(&mut body, path);
            }
            Message::Unwatch { watch } => {
                body.push(UNWATCH);
                body.extend(watch.to_le_bytes());
            }
            Message::Event(Event { mask, place, to }) => {
                body.push(EVENT);
                body.extend(mask.to_le_bytes());
                for place in std::iter::once(place).chain(to) {
                    body.extend(place.watch.to_le_bytes());
                    put(&mut body, &place.name);
                }
            }
        }
        framed(&body)
    }

    /// The next one, from whoever may send anything.
    ///
    /// # Errors
    /// What reading met; InvalidData for what is no message.
    pub fn read(from: &mut impl io::Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::parse(&body).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// From what followed the length.
    pub fn parse(mut body: &[u8]) -> Option<Self> {
        let [kind] = array(&mut body)?;
        let message = match kind {
            WATCH => Message::Watch {
                watch: number(&mut body)?,
                share: u16::from_le_bytes(array(&mut body)?),
                mask: number(&mut body)?,
                path: take(&mut body).filter(|path| path.len() <= MAX_PATH)?.to_vec(),
            },
            UNWATCH => Message::Unwatch { watch: number(&mut body)? },
            EVENT => Message::Event(Event {
                mask: number(&mut body)?,
                place: place(&mut body)?,
                to: if body.is_empty() { None } else { Some(place(&mut body)?) },
            }),
            _ => return None,
        };
        body.is_empty().then_some(message)
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    body.extend(length.to_le_bytes());
    body.extend(bytes.iter().take(length.into()));
}

fn array<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*head)
}

fn number(body: &mut &[u8]) -> Option<u32> {
    array(body).map(u32::from_le_bytes)
}

fn take<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_le_bytes(array(body)?);
    let (head, rest) = body.split_at_checked(length.into())?;
    *body = rest;
    Some(head)
}

/// A name is one component of a path, or nothing.
fn place(body: &mut &[u8]) -> Option<Place> {
    let watch = number(body)?;
    let name = take(body)?;
    let plain = name.len() <= MAX_NAME && !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..";
    plain.then(|| Place { watch, name: name.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(message: Message) {
        let bytes = message.to_bytes();
        assert_eq!(bytes[..4], ((bytes.len() - 4) as u32).to_le_bytes());
        assert!(bytes.len() - 4 <= MAX_MESSAGE);
        assert_eq!(Message::read(&mut bytes.as_slice()).unwrap(), message);
        assert_eq!(Message::parse(&bytes[4..]), Some(message));
        assert_eq!(Message::parse(&bytes[4..bytes.len() - 1]), None);
        assert_eq!(Message::parse(&[&bytes[4..], b"x"].concat()), None);
    }

    #[test]
    fn messages_are_read_as_they_are_written() {
        let at = |watch, name: &[u8]| Place { watch, name: name.to_vec() };
        round(Message::Watch { watch: 7, share: 2, mask: event::REPORTED, path: b"a/b".to_vec() });
        round(Message::Watch { watch: 7, share: 2, mask: 0, path: vec![b'x'; MAX_PATH] });
        round(Message::Unwatch { watch: 9 });
        round(Message::Event(Event { mask: event::CREATE, place: at(1, b"name"), to: None }));
        round(Message::Event(Event { mask: event::MODIFY, place: at(1, b""), to: None }));
        let moved = event::MOVED_FROM | event::MOVED_TO | event::ISDIR;
        round(Message::Event(Event {
            mask: moved,
            place: at(1, &[b'y'; MAX_NAME]),
            to: Some(at(2, &[b'x'; MAX_NAME])),
        }));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [b"..".as_slice(), b".", b"a/b", b"a\0", &[b'x'; MAX_NAME + 1]] {
            let event = Event { mask: event::CREATE, place: Place { watch: 1, name: name.to_vec() }, to: None };
            assert_eq!(Message::parse(&Message::Event(event).to_bytes()[4..]), None, "{name:?}");
        }
        assert_eq!(Message::parse(b""), None);
        assert_eq!(Message::parse(b"\x09"), None);
    }

    #[test]
    fn the_greeting_is_read_as_it_is_written() {
        let greeting = Greeting { id: "box".into(), shares: vec!["mounts/0".into(), "mounts/1".into()] };
        assert_eq!(Greeting::parse(&greeting.to_bytes()[4..]), Some(greeting));
        assert_eq!(Greeting::parse(b""), None);
        assert_eq!(Greeting::parse(b"\x01\0\xff"), None);
    }
}
