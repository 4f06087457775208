//! A runtime on a pseudo-terminal, driven as a person would.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::pty::OpenptFlags;
use rustix::termios::{Termios, Winsize};

/// A command on a terminal of its own.
pub struct Terminal {
    master: File,
    slave: File,
    /// The command.
    pub child: Child,
    output: Receiver<Vec<u8>>,
    screen: String,
}

/// Window size.
pub fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Starts a command in a session of its own with a terminal of this size.
    pub fn start(command: &Command, window: Winsize) -> Terminal {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("pty");
        rustix::pty::grantpt(&master).expect("grantpt");
        rustix::pty::unlockpt(&master).expect("unlockpt");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("ptsname");
        let slave = rustix::fs::open(
            &name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .expect("open the terminal");
        let slave = File::from(slave);
        rustix::termios::tcsetwinsize(&slave, window).expect("set window size");

        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let clone = || slave.try_clone().expect("duplicate the terminal");
        let child = session.stdin(clone()).stdout(clone()).stderr(clone()).spawn().expect("start setsid");

        let master = File::from(master);
        let mut reader = master.try_clone().expect("duplicate the master");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut block) {
                if sender.send(block[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { master, slave, child, output, screen: String::new() }
    }

    /// Types.
    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Waits until this appears, and forgets everything up to it; returns what came before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.screen.find(text) {
                let before = self.screen[..at].to_owned();
                self.screen.drain(..at + text.len());
                return before;
            }
            let left = Duration::from_secs(120).saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.screen.push_str(&String::from_utf8_lossy(&bytes));
                    // busybox asks where the cursor is before each prompt.
                    self.screen = self.screen.replace("\x1b[6n", "");
                }
                Err(error) => panic!("{text:?} did not appear ({error}); the screen: {:?}", self.screen),
            }
        }
    }

    /// Waits until the runtime has put the terminal into raw mode: what is typed earlier may be lost, as with ssh.
    pub fn wait_until_raw(&self) {
        let start = Instant::now();
        while self.settings().local_modes.contains(rustix::termios::LocalModes::ICANON) {
            assert!(start.elapsed() < Duration::from_secs(60), "the terminal was never put into raw mode");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Changes the window's size; the kernel sends SIGWINCH.
    pub fn resize(&self, window: Winsize) {
        rustix::termios::tcsetwinsize(&self.master, window).expect("set window size");
    }

    /// The terminal's settings now.
    pub fn settings(&self) -> Termios {
        rustix::termios::tcgetattr(&self.slave).expect("terminal settings")
    }

    /// Waits for the command's end; returns what is left on the screen.
    pub fn finish(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("wait for the runtime");
        while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
            self.screen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status, self.screen)
    }
}
