//! A container on a terminal.

use std::process::Command;

use serde_json::json;

use super::any;
use super::lifecycle::Created;
use crate::bundle::Root;
use crate::terminal::{Terminal, size};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    any("terminal::session", 240, session),
    any("terminal::exec", 300, exec),
    any("terminal::line_editing", 120, line_editing),
    any("terminal::much_output", 240, much_output),
];

fn session(env: &Env) {
    let bundle = env.bundle(Root::Busybox).set("/process/terminal", json!(true)).env("PS1=ready> ").args(&["sh", "-i"]);
    converse(&env.command(&bundle), "ls -l /dev/console | cut -c1", "c");
}

/// A process of a container that has no terminal itself.
fn exec(env: &Env) {
    let container = Created::new(env, env.bundle(Root::Busybox).script("exec sleep 1000"));
    let id = container.bundle.id.as_str();
    container.call(&["start", id]).ok();
    let mut command = Command::new(&env.runtime);
    command.args(["exec", "--tty", "--env", "PS1=ready> ", id, "sh", "-i"]);
    converse(&command, "ls /dev/pts | head -1", "0");
}

/// Talks to a shell on a terminal. One of the things it says is `answer` to `question`.
fn converse(command: &Command, question: &str, answer: &str) {
    let mut terminal = Terminal::start(command, size(33, 101));
    let before = terminal.settings();
    terminal.wait_for("ready> ");
    terminal.wait_until_raw();
    let during = terminal.settings();
    assert_ne!(before.local_modes, during.local_modes, "the terminal is in raw mode while the container has it");

    // What is typed is echoed once.
    terminal.write("echo a-$((1+1))-b\r");
    assert_eq!(terminal.wait_for("a-2-b\r\n").trim_end(), "echo a-$((1+1))-b");
    terminal.wait_for("ready> ");

    terminal.write(&format!("tty; stty size; {question}\r"));
    terminal.wait_for(&format!("/dev/pts/0\r\n33 101\r\n{answer}\r\n"));
    terminal.wait_for("ready> ");

    // Ctrl-C ends the command and not the shell.
    terminal.write("sleep 1000\r");
    terminal.wait_for("sleep 1000\r\n");
    std::thread::sleep(std::time::Duration::from_millis(500));
    terminal.write("\x03");
    terminal.wait_for("ready> ");
    terminal.write("echo status $?\r");
    terminal.wait_for("status 130\r\n");
    terminal.wait_for("ready> ");

    // A resize reaches the program as a signal and as the size.
    // (A shell without job control: with it the signal would go to each sleep's own process group.)
    let script = "trap \"echo resized to \\$(stty size)\" WINCH; echo wait\"\"ing; while :; do sleep 0.1; done";
    terminal.write(&format!("sh -c '{script}'\r"));
    terminal.wait_for("waiting\r\n");
    terminal.resize(size(50, 132));
    terminal.wait_for("resized to 50 132\r\n");
    terminal.resize(size(10, 40));
    terminal.wait_for("resized to 10 40\r\n");
    terminal.write("\x03");
    terminal.wait_for("ready> ");

    terminal.write("exit 7\r");
    let child = &mut terminal.child;
    assert_eq!(child.wait().expect("wait").code(), Some(7));
    let after = terminal.settings();
    assert_eq!(before.local_modes, after.local_modes, "the terminal is as it was");
    assert_eq!(before.input_modes, after.input_modes, "the terminal is as it was");
    terminal.finish();
}

/// Line editing and end of file are the container's own terminal's.
fn line_editing(env: &Env) {
    let bundle = env.bundle(Root::Busybox).set("/process/terminal", json!(true)).script("echo go; cat; echo end");
    let mut terminal = Terminal::start(&env.command(&bundle), size(24, 80));
    terminal.wait_for("go\r\n");
    terminal.wait_until_raw();
    terminal.write("abX\x7fc\r");
    terminal.wait_for("\r\nabc\r\n");
    terminal.write("thrown away\x15kept\r");
    terminal.wait_for("\r\nkept\r\n");
    terminal.write("\x04");
    let (status, rest) = terminal.finish();
    assert_eq!((status.code(), rest.as_str()), (Some(0), "end\r\n"));
}

fn much_output(env: &Env) {
    let bundle = env.bundle(Root::Busybox).set("/process/terminal", json!(true)).script("seq 1 30000; exit 3");
    let mut terminal = Terminal::start(&env.command(&bundle), size(24, 80));
    let start = terminal.wait_for("30000\r\n");
    let want: String = (1..30000).map(|number| format!("{number}\r\n")).collect();
    assert!(start == want, "{} bytes instead of {}", start.len(), want.len());
    assert_eq!(terminal.finish().0.code(), Some(3));
}
