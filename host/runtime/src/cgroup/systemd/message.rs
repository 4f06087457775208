//! Messages of the D-Bus specification: a header, and a body of values. Their encoding is the `zbus` crate's.

use serde::Serialize;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{Endian, LE, to_bytes};
use zbus::{ObjectPath, OwnedVariant, Signature, Type, Variant};

use super::bus::BusError;

/// The header's length as far as it is the same for each message: up to and with the size of its fields.
pub const FIXED: usize = 16;
/// systemd's answers are short.
const LONGEST: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Fields of a header by their codes.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const ERROR_NAME: u8 = 4;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SENDER: u8 = 7;
    pub const SIGNATURE: u8 = 8;
}

/// Byte order, kind, flags, version; length of the body, serial number; fields.
type Header<V> = (u8, u8, u8, u8, u32, u32, Vec<(u8, V)>);

/// Which method of whom.
#[derive(Clone, Copy)]
pub struct Method<'a> {
    /// On a bus, whose; between two peers there is nobody else.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub name: &'a str,
}

/// A call as bytes.
pub fn call<B: Serialize + Type>(method: Method<'_>, serial: u32, body: &B) -> Result<Vec<u8>, BusError> {
    let body_bytes = match B::SIGNATURE {
        Signature::Unit => Vec::new(),
        _ => to_bytes(Context::new(LE, 0), body)?.bytes().to_vec(),
    };
    let fields: Vec<(u8, Variant<'_>)> = vec![
        (field::PATH, ObjectPath::try_from(method.path)?.into()),
        (field::DESTINATION, method.destination.into()),
        (field::INTERFACE, method.interface.into()),
        (field::MEMBER, method.name.into()),
    ];
    let length = u32::try_from(body_bytes.len()).map_err(|_| zbus::Error::ExcessData)?;
    let header: Header<Variant<'_>> = (b'l', METHOD_CALL, 0, 1, length, serial, fields);
    let mut bytes = to_bytes(Context::new(LE, 0), &header)?.bytes().to_vec();
    if !body_bytes.is_empty() {
        add_signature(&mut bytes, &B::SIGNATURE.to_string_no_parens());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body_bytes);
    Ok(bytes)
}

/// Ends the header's fields with the types of the body's values. They follow each other: the parentheses of the tuple that
/// holds them here are not sent, and a signature that has none is not one for the crate.
fn add_signature(header: &mut Vec<u8>, signature: &str) {
    header.resize(header.len().next_multiple_of(8), 0);
    header.extend([field::SIGNATURE, 1, b'g', 0, signature.len() as u8]);
    header.extend(signature.as_bytes());
    header.push(0);
    let size = (header.len() - FIXED) as u32;
    if let Some(place) = header.get_mut(FIXED - 4..FIXED) {
        place.copy_from_slice(&size.to_le_bytes());
    }
}

/// How long the message is that begins so.
pub fn length(start: &[u8; FIXED]) -> Result<usize, BusError> {
    let (_, _, _, _, body, _, fields): (u8, u8, u8, u8, u32, u32, u32) =
        Data::new(&start[..], Context::new(byte_order(start)?, 0)).deserialize()?.0;
    let header = FIXED.saturating_add(fields as usize).next_multiple_of(8);
    match header.saturating_add(body as usize) {
        length if length <= LONGEST => Ok(length),
        _ => Err(zbus::Error::ExcessData.into()),
    }
}

fn byte_order(bytes: &[u8]) -> Result<Endian, BusError> {
    match bytes.first() {
        Some(b'l') => Ok(Endian::Little),
        Some(b'B') => Ok(Endian::Big),
        _ => Err(zbus::Error::IncorrectEndian.into()),
    }
}

/// A received message.
pub struct Message {
    kind: u8,
    /// The serial number of the call that it answers.
    pub answers: Option<u32>,
    /// The unique name of who sent it, on a bus.
    pub sender: Option<String>,
    member: Option<String>,
    error: Option<String>,
    body: Data<'static, 'static>,
}

impl Message {
    /// From all its bytes.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BusError> {
        let order = byte_order(&bytes)?;
        let whole = Data::new(bytes, Context::new(order, 0));
        let (header, used): (Header<OwnedVariant>, usize) = whole.deserialize()?;
        let body = used.next_multiple_of(8);
        if body > whole.bytes().len() {
            return Err(zbus::Error::OutOfBounds.into());
        }
        let text = |code| {
            let (_, value) = header.6.iter().find(|(found, _)| *found == code)?;
            value.downcast_ref::<String>().ok()
        };
        let answers = header.6.iter().find(|(code, _)| *code == field::REPLY_SERIAL);
        Ok(Self {
            kind: header.1,
            answers: answers.and_then(|(_, serial)| serial.downcast_ref::<u32>().ok()),
            sender: text(field::SENDER),
            member: text(field::MEMBER),
            error: text(field::ERROR_NAME),
            body: whole.slice(body..),
        })
    }

    /// It is this signal.
    pub fn is_signal(&self, name: &str) -> bool {
        self.kind == SIGNAL && self.member.as_deref() == Some(name)
    }

    /// Its values, as a tuple.
    pub fn values<'a, T: serde::Deserialize<'a> + Type>(&'a self) -> Result<T, BusError> {
        Ok(self.body.deserialize()?.0)
    }

    /// The answer, if the call did not fail.
    pub fn success(self) -> Result<Self, BusError> {
        if self.kind != ERROR {
            return Ok(self);
        }
        let name = self.error.clone().unwrap_or_default();
        let text = self.values::<(String,)>().map_or_else(|_| name.clone(), |(text,)| text);
        Err(BusError::Refused { name, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: Method<'static> = Method { destination: "a.b", path: "/a/b", interface: "a.c", name: "Do" };

    #[test]
    fn a_call_can_be_read() {
        let body = ("unit", vec![("PIDs", Variant::from(vec![7u32])), ("Slice", Variant::from("a.slice"))]);
        let bytes = call(METHOD, 3, &body).unwrap();
        assert_eq!(length(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
        let message = Message::parse(bytes.clone()).unwrap();
        let (unit, properties): (String, Vec<(String, OwnedVariant)>) = message.values().unwrap();
        assert_eq!((unit.as_str(), properties.len()), ("unit", 2));
        assert_eq!(properties[1].1.downcast_ref::<String>().unwrap(), "a.slice");
        assert!(!message.is_signal("Do") && message.answers.is_none());
        let signature = bytes.windows(6).any(|part| part == b"sa(sv)");
        assert!(signature && !bytes.windows(3).any(|part| part == b"(sa"), "{bytes:?}");
    }

    #[test]
    fn nothing_is_a_body_too() {
        let bytes = call(METHOD, 1, &()).unwrap();
        assert_eq!(length(bytes.first_chunk().unwrap()).unwrap(), bytes.len());
        assert!(Message::parse(bytes).is_ok());
    }

    #[test]
    fn broken_ones_are_refused() {
        let mut long = *call(METHOD, 1, &("x",)).unwrap().first_chunk().unwrap();
        long[7] = 0xff;
        assert!(length(&long).is_err());
        assert!(length(&[0; FIXED]).is_err());
        let whole = call(METHOD, 1, &("x",)).unwrap();
        for end in 0..whole.len() {
            assert!(Message::parse(whole[..end].to_vec()).is_err() || end >= whole.len() - 8, "{end}");
        }
    }
}
