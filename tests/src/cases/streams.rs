//! Standard input, output and error.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use super::any;
use crate::bundle::Root;
use crate::{Case, Env, pattern};

pub(super) const CASES: &[Case] = &[
    any("streams::hundred_mebibytes_through", 900, hundred_mebibytes),
    any("streams::hundred_mebibytes_have_the_same_sha256", 600, same_sha256),
    any("streams::end_of_input", 120, end_of_input),
    any("streams::input_nobody_reads", 120, input_nobody_reads),
    any("streams::output_before_exit_is_complete", 180, output_before_exit),
    any("streams::reader_goes_away", 120, reader_goes_away),
    any("streams::slow_reader", 240, slow_reader),
    any("streams::closed_output_is_not_the_end", 120, closed_output),
    any("streams::are_pipes_apart", 120, apart),
];

const MEBIBYTE: usize = 1 << 20;

/// 100 MiB in by standard input, out by standard output and standard error, all at the same time.
fn hundred_mebibytes(env: &Env) {
    let length = 100 * MEBIBYTE;
    let bundle = env.bundle(Root::Busybox).script("tee /dev/fd/2");
    let mut command = env.command(&bundle);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let stdin = child.stdin.take().expect("a pipe");
    let stdout = child.stdout.take().expect("a pipe");
    let stderr = child.stderr.take().expect("a pipe");
    let writer = std::thread::spawn(move || pattern::write(1, length, stdin));
    let errors = std::thread::spawn(move || pattern::check(1, length, stderr));
    let output = pattern::check(1, length, stdout);
    let errors = errors.join().expect("thread");
    let written = writer.join().expect("thread").map_err(|error| error.to_string());
    let status = child.wait().expect("wait").code();
    assert_eq!((output, errors, written, status), (Ok(()), Ok(()), Ok(()), Some(0)), "output, error, input, status");
}

fn same_sha256(env: &Env) {
    let length = 100 * MEBIBYTE;
    let bundle = env.bundle(Root::Debian).args(&["sha256sum"]);
    let mut child = env.command(&bundle).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
    let mut native = std::process::Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    let (ours, theirs) = (child.stdin.take().expect("a pipe"), native.stdin.take().expect("a pipe"));
    let writer = std::thread::spawn(move || pattern::write(2, length, ours));
    pattern::write(2, length, theirs).expect("write");
    writer.join().expect("thread").expect("write");
    let (ours, theirs) = (child.wait_with_output().expect("wait"), native.wait_with_output().expect("wait"));
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout));
    assert!(ours.status.success());
}

fn end_of_input(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("cat; echo end");
    let mut running = env.start(&bundle);
    running.write("one\n");
    running.expect("one");
    running.write("two\nthree");
    running.expect("two");
    running.close_stdin();
    running.expect("threeend");
    running.finish().ok();
    assert_eq!(env.run(&bundle).ok(), "end", "with empty input");
}

/// A command that reads nothing ends at once, while more input waits than any buffer holds.
fn input_nobody_reads(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("echo done");
    let mut child = env.command(&bundle).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
    let stdin = child.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || pattern::write(3, 64 * MEBIBYTE, stdin));
    let output = child.wait_with_output().expect("wait");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n");
    assert!(writer.join().expect("thread").is_err(), "somebody read 64 MiB of input");
}

fn output_before_exit(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("seq 1 200000; seq 1 1000 >&2; exit 9");
    let outcome = env.run(&bundle);
    assert_eq!(outcome.code(), 9);
    let numbers = |count: u32| (1..=count).map(|number| format!("{number}\n")).collect::<String>();
    assert!(outcome.stdout == numbers(200_000), "{} bytes of output", outcome.stdout.len());
    assert_eq!(outcome.stderr, numbers(1000));
}

/// `sandbox run … | head`: the writer in the container ends when nobody reads.
fn reader_goes_away(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("trap '' PIPE; yes; echo ended >&2");
    let mut child =
        env.command(&bundle).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut block = [0; 4096];
    stdout.read_exact(&mut block).expect("read");
    drop(stdout);
    let output = child.wait_with_output().expect("wait");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.ends_with("ended\n"), "{stderr:?}");
}

/// Nothing is lost, and nothing piles up, when the reader is slower than the writer.
fn slow_reader(env: &Env) {
    let length = 24 * MEBIBYTE;
    let bundle = env.bundle(Root::Busybox).probe(env).args(&["/probe", "pattern", "5", &length.to_string()]);
    let mut child = env.command(&bundle).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start");
    struct Slow<R>(R);
    impl<R: Read> Read for Slow<R> {
        fn read(&mut self, block: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(2));
            self.0.read(block)
        }
    }
    assert_eq!(pattern::check(5, length, Slow(child.stdout.take().expect("a pipe"))), Ok(()));
    assert!(child.wait().expect("wait").success());
}

fn closed_output(env: &Env) {
    let bundle = env.bundle(Root::Busybox).script("exec >&-; sleep 1; echo still here >&2; exit 4");
    let outcome = env.run(&bundle);
    assert_eq!((outcome.code(), outcome.stdout.as_str(), outcome.stderr.as_str()), (4, "", "still here\n"));
}

fn apart(env: &Env) {
    let bundle = env
        .bundle(Root::Busybox)
        .script("for fd in 0 1 2; do [ -t $fd ] && echo terminal; done; echo x >&2; ls /proc/self/fd | wc -l");
    let outcome = env.run(&bundle);
    assert_eq!(
        (outcome.stdout.trim(), outcome.stderr.as_str()),
        ("4", "x\n"),
        "0, 1, 2 and the directory being listed"
    );
}
