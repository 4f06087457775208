//! Bytes that look random and are the same each time: what goes through a stream can be checked without keeping a copy.

use std::io::{Read, Write};

const BLOCK: usize = 1 << 16;

/// The bytes of a stream, by its seed.
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// The stream of this seed, from its beginning.
    pub fn new(seed: u64) -> Self {
        Pattern { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The next bytes; `block` must be a multiple of eight long, but for the stream's end.
    pub fn fill(&mut self, block: &mut [u8]) {
        for chunk in block.chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes the first `length` bytes of a stream.
pub fn write(seed: u64, length: usize, mut to: impl Write) -> std::io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0; BLOCK];
    let mut left = length;
    while left > 0 {
        let size = left.min(BLOCK);
        pattern.fill(&mut block[..size]);
        to.write_all(&block[..size])?;
        left -= size;
    }
    to.flush()
}

/// Reads to the end and compares with the first `length` bytes of a stream.
pub fn check(seed: u64, length: usize, mut from: impl Read) -> Result<(), String> {
    let mut pattern = Pattern::new(seed);
    let (mut want, mut got) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut done = 0;
    loop {
        let mut size = 0;
        while size < BLOCK {
            match from.read(&mut got[size..]).map_err(|error| error.to_string())? {
                0 => break,
                count => size += count,
            }
        }
        pattern.fill(&mut want);
        if let Some(at) = (0..size).find(|&at| got[at] != want[at]) {
            // What is there instead is often a message.
            let text = String::from_utf8_lossy(&got[at..size.min(at + 100)]).escape_debug().to_string();
            return Err(format!("byte {} differs, {text:?} is there", done + at));
        }
        done += size;
        if size < BLOCK {
            break;
        }
    }
    if done == length { Ok(()) } else { Err(format!("{done} bytes instead of {length}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_accepted_and_nothing_else() {
        for length in [0, 1, 8, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
            let mut bytes = Vec::new();
            write(7, length, &mut bytes).unwrap();
            assert_eq!(bytes.len(), length);
            assert_eq!(check(7, length, &bytes[..]), Ok(()));
            bytes.push(0);
            assert!(check(7, length, &bytes[..]).is_err());
        }
        let mut bytes = Vec::new();
        write(7, 1000, &mut bytes).unwrap();
        bytes[700] ^= 1;
        assert!(check(7, 1000, &bytes[..]).is_err_and(|text| text.starts_with("byte 700 differs")));
    }
}
