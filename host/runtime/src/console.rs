//! Pseudo-terminals of the host: the proxy has the slave, whoever asked for the container has the master.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::descriptors;
use crate::proxy::protocol::Size;

/// A new pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// What the caller gets.
    pub master: OwnedFd,
    /// What the proxy keeps.
    pub slave: OwnedFd,
    /// The slave's path.
    pub name: CString,
}

impl Pty {
    /// Opens one: raw, since the terminal that the container sees, with its line editing, is the guest's.
    pub fn open(size: Option<Size>) -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        if let Some(size) = size {
            set_size(master.as_fd(), size)?;
        }
        Ok(Self { master, slave, name })
    }
}

/// Sets a terminal's size; whoever has it as controlling terminal gets SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Sends one descriptor over a socket, with its name as data.
pub fn send(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    descriptors::send(socket, &[descriptor], name)
}

/// Sends one descriptor to the socket at a path.
pub fn send_to(path: &Path, descriptor: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    send(UnixStream::connect(path)?.as_fd(), descriptor, name)
}

/// Receives one descriptor.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<File> {
    let (_, descriptors) = descriptors::receive(socket, &mut [0; 4096])?;
    descriptors.into_iter().next().map(File::from).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::termios::tcgetwinsize;

    use super::*;

    #[test]
    fn a_master_travels() {
        let pty = Pty::open(Some(Size { rows: 7, columns: 33 })).unwrap();
        assert_eq!(tcgetwinsize(&pty.slave).unwrap().ws_col, 33);
        assert!(pty.name.to_str().unwrap().starts_with("/dev/pts/"));
        let (here, there) = UnixStream::pair().unwrap();
        send(here.as_fd(), pty.master.as_fd(), pty.name.as_bytes()).unwrap();
        let mut master = receive(there.as_fd()).unwrap();
        let mut slave = File::from(pty.slave);
        // Raw: no echo, and no carriage return is put in.
        slave.write_all(b"a\n").unwrap();
        let mut got = [0; 2];
        master.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"a\n");
    }

    #[test]
    fn a_socket_without_descriptor_is_an_error() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(receive(there.as_fd()).is_err());
    }
}
