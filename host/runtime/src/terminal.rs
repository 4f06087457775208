//! The caller's terminal, when the container has one: raw while the container runs, and as it was afterwards.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use agent_protocol::agent::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::Plain;
use crate::proxy::protocol::Size;

/// There is no terminal that could be the container's.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// None of the streams is one, and the process has no controlling terminal.
    #[error(
        "process.terminal (or --tty) asks for a terminal, but this command has none ({}): run it in one, or do not ask for it",
        Plain(.0)
    )]
    None(io::Error),
    /// It cannot be changed.
    #[error("cannot set up the terminal: {}", Plain(.0))]
    Setup(io::Error),
}

/// The terminal of the caller.
#[derive(Clone, Debug)]
pub struct Terminal(Arc<OwnedFd>);

/// A terminal in raw mode. Dropping this makes it as it was.
#[derive(Debug)]
pub struct Raw {
    terminal: Terminal,
    original: Termios,
}

impl Terminal {
    /// The first of stderr, stdout and stdin that is a terminal, else the controlling terminal.
    pub fn find() -> Result<Self, TerminalError> {
        let (stderr, stdout, stdin) = (io::stderr(), io::stdout(), io::stdin());
        let streams = [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()];
        let fd = match streams.iter().find(|fd| rustix::termios::isatty(fd)) {
            Some(fd) => fd.try_clone_to_owned(),
            None => OpenOptions::new().read(true).write(true).open("/dev/tty").map(OwnedFd::from),
        };
        fd.map(Self::new).map_err(TerminalError::None)
    }

    /// Takes a terminal.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// A descriptor of its own for the same terminal.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Its size, unless it has none.
    pub fn window(&self) -> Option<Size> {
        let size = tcgetwinsize(&self.0).ok().filter(|size| size.ws_row != 0 && size.ws_col != 0)?;
        Some(Size { rows: size.ws_row, columns: size.ws_col })
    }

    /// The same for the agent.
    pub fn size(&self) -> Option<TerminalSize> {
        let Size { rows, columns } = self.window()?;
        Some(TerminalSize { rows: rows.into(), columns: columns.into(), ..Default::default() })
    }

    /// Passes every byte typed to the container, Ctrl-C too, and shows what the container's own terminal made of its output.
    pub fn make_raw(&self) -> Result<Raw, TerminalError> {
        let setup = |error: rustix::io::Errno| TerminalError::Setup(error.into());
        let original = tcgetattr(&self.0).map_err(setup)?;
        let mut raw = original.clone();
        raw.make_raw();
        tcsetattr(&self.0, OptionalActions::Now, &raw).map_err(setup)?;
        Ok(Raw { terminal: self.clone(), original })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal.0, OptionalActions::Now, &self.original);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, OutputModes, Winsize, tcsetwinsize};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (master, slave.into())
    }

    #[test]
    fn raw_and_back() {
        let (_master, slave) = pair();
        let modes = || tcgetattr(&slave).unwrap().local_modes;
        let before = modes();
        let raw = Terminal::new(slave.try_clone().unwrap()).make_raw().unwrap();
        assert!(!modes().intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        assert!(!tcgetattr(&slave).unwrap().output_modes.contains(OutputModes::OPOST));
        drop(raw);
        assert_eq!(modes(), before);
    }

    #[test]
    fn size_is_the_terminals() {
        let (master, slave) = pair();
        let terminal = Terminal::new(slave);
        assert!(terminal.size().is_none());
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let size = terminal.size().unwrap();
        assert_eq!((size.rows, size.columns), (24, 80));
    }
}
