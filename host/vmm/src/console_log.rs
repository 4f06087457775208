//! The last of what the guest wrote to its consoles: shown when its kernel panics.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes kept: some hundred lines, enough for a panic with its call trace.
const KEPT: usize = 32 * 1024;
/// A line is cut here: it is shown on a terminal.
const LINE_MAX: usize = 400;

/// A bounded log that the early serial port and the virtio console write to. Clones share it.
#[derive(Clone, Default)]
pub struct ConsoleLog {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    echo: bool,
}

impl ConsoleLog {
    /// An empty log. With `echo`, what comes in is also written to standard error, for whoever debugs a guest.
    pub fn new(echo: bool) -> Self {
        ConsoleLog { bytes: Arc::default(), echo }
    }

    /// Adds guest output; the oldest goes.
    pub fn push(&self, data: &[u8]) {
        if self.echo {
            let _ = io::stderr().write_all(data);
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let data = &data[data.len().saturating_sub(KEPT)..];
        let excess = (bytes.len() + data.len()).saturating_sub(KEPT).min(bytes.len());
        bytes.drain(..excess);
        bytes.extend(data);
    }

    /// The last `count` lines that are not empty. What is not printable is left out: the guest chose these bytes, and they go
    /// to somebody's terminal.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let text: Vec<u8> = bytes.iter().copied().collect();
        drop(bytes);
        let lines = text.split(|byte| *byte == b'\n').map(printable).filter(|line| !line.trim().is_empty());
        let lines: Vec<String> = lines.collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// Whether the kernel said that it panics.
    pub fn shows_panic(&self) -> bool {
        self.last_lines(usize::MAX).iter().any(|line| line.contains("Kernel panic - not syncing"))
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.push(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printable(line: &[u8]) -> String {
    line.iter().filter(|byte| (0x20..0x7f).contains(*byte)).take(LINE_MAX).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_and_nothing_that_drives_a_terminal() {
        let log = ConsoleLog::new(false);
        log.push(b"first\r\n\x1b[31mred\x07\n\n");
        assert_eq!(log.last_lines(5), ["first", "[31mred"]);
        for _ in 0..10_000 {
            log.push(b"0123456789\n");
        }
        log.push(&vec![b'x'; 2 * KEPT]);
        log.push(b"\nKernel panic - not syncing: test\n");
        assert!(log.bytes.lock().unwrap().len() <= KEPT);
        assert_eq!(log.last_lines(1), ["Kernel panic - not syncing: test"]);
        assert!(log.last_lines(2)[0].len() <= LINE_MAX);
        assert!(log.shows_panic());
    }
}
