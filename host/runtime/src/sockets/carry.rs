//! One connection: bytes both ways, and the end of each direction as the other side made it.

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// Each direction has one buffer, and reads again only when all of it is written: a slow side slows the other down.
const BUFFER: usize = 16 << 10;

/// One direction.
struct Direction {
    buffer: Vec<u8>,
    /// What was read and not yet written.
    filled: Range<usize>,
    over: bool,
}

impl Direction {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER], filled: 0..0, over: false }
    }

    fn reads(&self) -> bool {
        !self.over && self.filled.is_empty()
    }

    fn writes(&self) -> bool {
        !self.over && !self.filled.is_empty()
    }

    /// Moves what can be moved without waiting, but not for ever: the other direction has its turn.
    fn turn(&mut self, from: &UnixStream, to: &UnixStream) {
        if self.reads() {
            match retry_on_intr(|| recv(from, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT)) {
                Err(Errno::AGAIN) => return,
                // A connection that its other side has reset has ended too.
                Ok((0, _)) | Err(_) => {
                    self.over = true;
                    let _ = to.shutdown(Shutdown::Write);
                }
                Ok((length, _)) => self.filled = 0..length,
            }
        }
        if self.writes() {
            let bytes = self.buffer.get(self.filled.clone()).unwrap_or_default();
            match retry_on_intr(|| send(to, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                Ok(length) => self.filled.start += length,
                Err(Errno::AGAIN) => {}
                // Nobody takes it: whoever sends is to see that.
                Err(_) => {
                    self.over = true;
                    let _ = from.shutdown(Shutdown::Read);
                }
            }
        }
    }
}

/// One side: its socket, and whether its other end is closed.
struct Side<'a> {
    socket: &'a UnixStream,
    gone: bool,
}

/// Until both directions have ended, or one side is gone altogether and all that it sent is with the other.
pub fn carry(one: &UnixStream, other: &UnixStream) -> io::Result<()> {
    let mut sides = [Side { socket: one, gone: false }, Side { socket: other, gone: false }];
    let (mut there, mut back) = (Direction::new(), Direction::new());
    loop {
        let [first, second] = &sides;
        if there.over && (back.over || first.gone) || back.over && second.gone {
            return Ok(());
        }
        // One that is gone is read to its end without waiting.
        if !(first.gone && there.reads() || second.gone && back.reads()) {
            if first.gone && second.gone {
                return Ok(());
            }
            wait_for(&mut sides, [interest(&there, &back), interest(&back, &there)])?;
        }
        there.turn(one, other);
        back.turn(other, one);
    }
}

fn interest(from: &Direction, to: &Direction) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, from.reads());
    flags.set(PollFlags::OUT, to.writes());
    flags
}

/// Waits until something can be moved, or one side goes. That is told without being asked for, and again and again: who is gone is not
/// asked any more.
fn wait_for(sides: &mut [Side<'_>; 2], interests: [PollFlags; 2]) -> io::Result<()> {
    let asked = sides.iter_mut().zip(interests).filter(|(side, _)| !side.gone);
    let (sides, mut fds): (Vec<_>, Vec<_>) = asked
        .map(|(side, flags)| {
            let fd = PollFd::new(side.socket, flags);
            (side, fd)
        })
        .unzip();
    retry_on_intr(|| poll(&mut fds, None))?;
    for (side, fd) in sides.into_iter().zip(fds) {
        side.gone = fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use super::*;

    /// A connection that is carried. The thread ends with the processor time that it took, in ticks.
    fn carried() -> (UnixStream, UnixStream, JoinHandle<u32>) {
        let (client, one) = UnixStream::pair().unwrap();
        let (server, other) = UnixStream::pair().unwrap();
        let carrying = thread::spawn(move || {
            carry(&one, &other).unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let ticks = stat.rsplit(')').next().unwrap().split_ascii_whitespace().skip(11).take(2);
            ticks.map(|number| number.parse::<u32>().unwrap()).sum()
        });
        (client, server, carrying)
    }

    fn read_all(mut stream: &UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn each_direction_ends_by_itself() {
        let (mut client, mut server, carrying) = carried();
        client.write_all(&[b'?'; 100_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&server), [b'?'; 100_000]);
        server.write_all(&[b'!'; 100_000]).unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client), [b'!'; 100_000]);
        carrying.join().unwrap();
    }

    #[test]
    fn both_at_once() {
        let (client, server, carrying) = carried();
        let send = |stream: &UnixStream| {
            let mut stream = stream.try_clone().unwrap();
            thread::spawn(move || {
                stream.write_all(&[b'x'; 1 << 20]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            })
        };
        let senders = [send(&client), send(&server)];
        let reading = thread::spawn(move || read_all(&server).len());
        assert_eq!(read_all(&client).len(), 1 << 20);
        assert_eq!(reading.join().unwrap(), 1 << 20);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        carrying.join().unwrap();
    }

    #[test]
    fn who_is_gone_ends_it() {
        let (mut client, server, carrying) = carried();
        client.write_all(b"last words").unwrap();
        drop(client);
        assert_eq!(read_all(&server), b"last words");
        carrying.join().unwrap();
        let (client, mut server, carrying) = carried();
        server.write_all(&[0; 50_000]).unwrap();
        drop(server);
        assert_eq!(read_all(&client).len(), 50_000);
        carrying.join().unwrap();
        // Both directions of it are closed: this is no half-close.
        assert_eq!((&client).write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn who_is_gone_while_the_other_does_not_read_keeps_nobody_busy() {
        let (mut client, server, carrying) = carried();
        client.set_nonblocking(true).unwrap();
        let mut sent = 0;
        for _ in 0..100 {
            while let Ok(length) = client.write(&[0; 4096]) {
                sent += length;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert!(sent < 4 << 20);
        drop(client);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(read_all(&server).len(), sent);
        let ticks = carrying.join().unwrap();
        assert!(ticks < 20, "{ticks} hundredths of a second");
    }

    #[test]
    fn one_that_takes_no_more_is_told_to_who_sends() {
        let (mut client, mut server, carrying) = carried();
        server.shutdown(Shutdown::Read).unwrap();
        while client.write_all(&[0; 1000]).is_ok() {}
        server.write_all(b"still here").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let mut got = [0; 10];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still here");
        carrying.join().unwrap();
    }
}
