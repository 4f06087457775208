//! Requests of the driver and answers to them (5.15.6).

use std::io::{Read, Write};

use virtio_queue::DescriptorChain;

use crate::memory::GuestMemory;

/// Bytes of struct virtio_mem_req.
pub(super) const REQUEST_LEN: usize = 24;
/// Bytes of struct virtio_mem_resp.
pub(super) const RESPONSE_LEN: usize = 10;

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Plug { address: u64, blocks: u16 },
    Unplug { address: u64, blocks: u16 },
    UnplugAll,
    State { address: u64, blocks: u16 },
}

impl Request {
    /// A request as the driver wrote it; `None` for one that there is not.
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let (type_, _) = bytes.split_first_chunk::<2>()?;
        let (address, rest) = bytes.get(8..)?.split_first_chunk::<8>()?;
        let (blocks, _) = rest.split_first_chunk::<2>()?;
        let (address, blocks) = (u64::from_le_bytes(*address), u16::from_le_bytes(*blocks));
        Some(match u16::from_le_bytes(*type_) {
            0 => Request::Plug { address, blocks },
            1 => Request::Unplug { address, blocks },
            2 => Request::UnplugAll,
            3 => Request::State { address, blocks },
            _ => return None,
        })
    }
}

/// What is known of some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// What the driver is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    Ack,
    /// More than was asked of the driver.
    Nack,
    Error,
    State(State),
}

impl Response {
    /// As it is written.
    pub fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let (type_, state) = match self {
            Response::Ack => (0u16, 0u16),
            Response::Nack => (1, 0),
            Response::Error => (3, 0),
            Response::State(state) => (0, state as u16),
        };
        let mut bytes = [0; RESPONSE_LEN];
        bytes[..2].copy_from_slice(&type_.to_le_bytes());
        bytes[8..].copy_from_slice(&state.to_le_bytes());
        bytes
    }
}

/// Reads the request of a chain, has it answered and writes the answer; gives how many bytes were written. Nothing is done for a chain
/// that holds no request, or no room for its answer.
pub(super) fn answer(
    chain: DescriptorChain<&GuestMemory>,
    memory: &GuestMemory,
    carry_out: impl FnOnce(Option<Request>) -> Response,
) -> u32 {
    let mut bytes = [0; REQUEST_LEN];
    let read = chain.clone().reader(memory).is_ok_and(|mut reader| reader.read_exact(&mut bytes).is_ok());
    let Ok(mut writer) = chain.writer(memory) else { return 0 };
    if !read || writer.available_bytes() < RESPONSE_LEN {
        return 0;
    }
    let response = carry_out(Request::parse(&bytes)).to_bytes();
    writer.write_all(&response).map_or(0, |()| RESPONSE_LEN as u32)
}
