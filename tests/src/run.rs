//! Running a bundle and talking to what runs in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::Env;
use crate::bundle::Bundle;

/// How a run ended and what it printed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The runtime's own status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The exit status; panics when the runtime was killed.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("the runtime was killed: {self:?}"))
    }

    /// Panics unless the command succeeded; returns what it printed, without the last newline.
    pub fn ok(&self) -> &str {
        assert_eq!(self.code(), 0, "{self:?}");
        self.stdout.trim_end_matches('\n')
    }
}

/// As long as any start takes, in the lab too.
const PATIENCE: Duration = Duration::from_secs(120);

/// A container that runs, with pipes to it.
pub struct Running {
    /// The runtime's process.
    pub child: Child,
    /// Standard input, until [`Running::close_stdin`].
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    seen: Vec<String>,
    /// How long a line may take to come.
    pub patience: Duration,
}

impl Env {
    /// `RUNTIME run -b BUNDLE ID`, after config.json was written.
    pub fn command(&self, bundle: &Bundle) -> Command {
        bundle.save();
        let mut command = Command::new(&self.runtime);
        command.args(["run", "-b"]).arg(&bundle.path).arg(&bundle.id);
        command
    }

    /// Runs a bundle to its end with empty input.
    pub fn run(&self, bundle: &Bundle) -> Outcome {
        outcome(self.command(bundle))
    }

    /// Starts a bundle with pipes for input and output.
    pub fn start(&self, bundle: &Bundle) -> Running {
        Running::new(self.command(bundle))
    }

    /// A shell in the bundle's container that takes one command after the other.
    pub fn session(&self, bundle: Bundle) -> Session {
        let bundle = bundle.args(&["sh"]);
        Session { running: self.start(&bundle), bundle, count: 0 }
    }
}

/// Runs a command to its end with empty input.
pub fn outcome(mut command: Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().expect("run the runtime");
    Outcome {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Running {
    /// Starts a command with pipes for input and output.
    pub fn new(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the runtime");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("a pipe");
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stdin = child.stdin.take();
        Running { child, stdin, lines, stderr: Some(stderr), seen: Vec::new(), patience: PATIENCE }
    }

    /// The next line of output; panics when none comes within [`patience`](Self::patience).
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(self.patience) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(error) => {
                let _ = self.child.kill();
                let stderr = self.stderr.take().map(|thread| thread.join().unwrap_or_default());
                panic!(
                    "no line of output ({error}); {} before it, the last: {:?}; stderr: {stderr:?}",
                    self.seen.len(),
                    &self.seen[self.seen.len().saturating_sub(5)..]
                );
            }
        }
    }

    /// Waits for this line.
    pub fn expect(&mut self, want: &str) {
        let got = self.line();
        assert_eq!(got, want);
    }

    /// Waits for this line, and skips others.
    pub fn wait_for(&mut self, want: &str) {
        while self.line() != want {}
    }

    /// Writes to standard input.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("write to the container");
    }

    /// Ends standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal to the runtime.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal the runtime");
    }

    /// Waits for the end; returns status and what was not read yet.
    pub fn finish(mut self) -> Outcome {
        self.stdin = None;
        let status = self.child.wait().expect("wait for the runtime");
        let stdout: Vec<String> = self.lines.iter().collect();
        let stderr = self.stderr.take().map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        Outcome { status, stdout: stdout.join("\n"), stderr }
    }

    /// Waits for the end, but no longer than this.
    pub fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait().expect("wait for the runtime") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

/// A shell in a container, fed command by command, while the host looks at the same files.
pub struct Session {
    /// The shell.
    pub running: Running,
    /// The container's bundle.
    pub bundle: Bundle,
    count: u32,
}

impl Session {
    /// Runs a command; returns its status and what it printed.
    pub fn status(&mut self, command: &str) -> (i32, String) {
        self.count += 1;
        let marker = format!("--end-{}--", self.count);
        self.running.write(&format!("( {command}\n) </dev/null 2>&1; s=$?; echo; echo \"{marker} $s\"\n"));
        let mut output = Vec::new();
        loop {
            let line = self.running.line();
            match line.strip_prefix(&marker) {
                Some(status) => {
                    let status = status.trim().parse().expect("a status");
                    return (status, output.join("\n").trim_end_matches('\n').to_owned());
                }
                None => output.push(line),
            }
        }
    }

    /// Runs a command that must succeed; returns what it printed.
    pub fn run(&mut self, command: &str) -> String {
        let (status, output) = self.status(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// Ends the shell, which must succeed.
    pub fn end(self) {
        let outcome = self.running.finish();
        outcome.ok();
        drop(self.bundle);
    }
}
