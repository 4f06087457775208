//! Bytes that the guest sent and the client's socket did not take yet.

use std::io::{self, Write};

use super::packet::Buffers;

/// From this capacity on, an emptied buffer gives its memory back.
const KEEP: usize = 16 << 10;

/// A queue of bytes. It holds no more than the connection's window, which the connection checks.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes at the front which are gone already.
    head: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `data`.
    pub fn push(&mut self, data: &Buffers) {
        if self.head >= self.len() {
            // At least as much is gone as has to be moved, so each byte is moved once.
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        data.append_to(&mut self.bytes);
    }

    /// Writes as much as `to` takes; returns how much that was.
    ///
    /// # Errors
    /// Those of `to`, but not WouldBlock. What was written before is then not told: the connection is lost anyway.
    pub fn flush(&mut self, mut to: impl Write) -> io::Result<usize> {
        let mut written = 0;
        while !self.is_empty() {
            match to.write(self.bytes.get(self.head..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(count) => {
                    self.head += count;
                    written += count;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) => return Err(err),
            }
        }
        if self.is_empty() {
            self.clear();
        }
        Ok(written)
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.head = 0;
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }
}
