//! Bytes between a client's socket and guest memory, without a copy in between.

use std::io;
use std::os::unix::net::UnixStream;

use vm_memory::{ReadVolatile, VolatileMemoryError, WriteVolatile};

use super::packet::Buffers;

/// Writes what `stream` takes of `data`, and leaves that away from it.
pub(super) fn write(mut stream: &UnixStream, data: &mut Buffers) -> io::Result<usize> {
    let mut written = 0;
    while let Some(slice) = data.slices().first() {
        match stream.write_volatile(slice) {
            Ok(count) => {
                let whole = count == slice.len();
                data.skip(count);
                written += count;
                if !whole {
                    break;
                }
            }
            Err(err) => match io_error(err) {
                err if err.kind() == io::ErrorKind::Interrupted => {}
                err if err.kind() == io::ErrorKind::WouldBlock => break,
                err => return Err(err),
            },
        }
    }
    Ok(written)
}

/// Reads into `room`: how many bytes, 0 at the end of the stream, None when there is nothing now.
pub(super) fn read(mut stream: &UnixStream, room: &Buffers) -> io::Result<Option<usize>> {
    let mut done = 0;
    for slice in room.slices() {
        let count = loop {
            match stream.read_volatile(&mut slice.clone()) {
                Ok(count) => break count,
                Err(err) => match io_error(err) {
                    err if err.kind() == io::ErrorKind::Interrupted => {}
                    // What was read counts; after an error comes the end.
                    _ if done > 0 => return Ok(Some(done)),
                    err if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    err => return Err(err),
                },
            }
        };
        done += count;
        if count < slice.len() {
            break;
        }
    }
    Ok(Some(done))
}

fn io_error(err: VolatileMemoryError) -> io::Error {
    match err {
        VolatileMemoryError::IOError(err) => err,
        err => io::Error::other(err),
    }
}
