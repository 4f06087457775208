//! Streams of pipes, sockets and files.

use std::io::{Read, Write, pipe};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::*;

const SIZE: usize = 100 << 20;

/// Of a length that divides no buffer's, so that a lost, doubled or moved piece shows.
fn block() -> Vec<u8> {
    (0..1_000_003u32).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

fn write_all(mut to: impl Write) {
    let block = block();
    let mut left = SIZE;
    while left > 0 {
        let count = left.min(block.len());
        to.write_all(&block[..count]).unwrap();
        left -= count;
    }
}

fn check_all(mut from: impl Read) {
    let mut data = Vec::new();
    from.read_to_end(&mut data).unwrap();
    assert_eq!(data.len(), SIZE);
    let block = block();
    assert!(data.chunks(block.len()).all(|chunk| chunk == &block[..chunk.len()]));
}

#[test]
fn large_output_through_a_pipe() {
    let (source, stream) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || write_all(source));
        scope.spawn(move || check_all(reader));
        scope.spawn(move || {
            let firsts = AtomicUsize::new(0);
            let count = || firsts.store(firsts.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            assert_eq!(copy(stream.as_fd(), writer.as_fd(), None, None, count).unwrap(), SIZE as u64);
            assert_eq!(firsts.into_inner(), 1);
        });
    });
}

#[test]
fn large_input_from_a_pipe_and_half_close() {
    let (reader, writer) = pipe().unwrap();
    let (stream, guest) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || write_all(writer));
        scope.spawn(move || check_all(guest));
        scope.spawn(move || {
            copy(reader.as_fd(), stream.as_fd(), Some(stream.as_fd()), None, || {}).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            wait_gone(stream.as_fd());
        });
    });
}

#[test]
fn sockets_and_files_are_copied_without_splice() {
    let (source, stream) = UnixStream::pair().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || write_all(source));
        assert_eq!(copy(stream.as_fd(), file.as_fd(), None, None, || {}).unwrap(), SIZE as u64);
    });
    check_all(file.reopen().unwrap());
}

#[test]
fn non_blocking_ends_are_waited_for() {
    let (source, stream) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    stream.set_nonblocking(true).unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || write_all(source));
        scope.spawn(move || check_all(reader));
        scope.spawn(move || copy(stream.as_fd(), writer.as_fd(), None, None, || {}).unwrap());
    });
}

/// Reads from the pipe, on a thread so that a pipe whose lock is held fails the test.
fn read_soon(mut from: impl Read + Send + 'static, count: usize) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut data = vec![0; count];
        from.read_exact(&mut data).unwrap();
        sender.send(String::from_utf8(data).unwrap()).unwrap();
    });
    receiver.recv_timeout(Duration::from_secs(10)).expect("the pipe can be read")
}

#[test]
fn a_pipe_for_two_streams_is_free_while_both_are_silent() {
    let (reader, writer) = pipe().unwrap();
    let streams = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
    let sources = streams.map(|(source, stream)| {
        let writer = writer.try_clone().unwrap();
        thread::spawn(move || copy(stream.as_fd(), writer.as_fd(), None, None, || {}));
        source
    });
    thread::sleep(Duration::from_millis(50));
    for (mut source, text) in sources.iter().zip(["one", "two"]) {
        source.write_all(text.as_bytes()).unwrap();
        assert_eq!(read_soon(reader.try_clone().unwrap(), 3), text);
    }
}

#[test]
fn a_pipe_is_free_while_its_guest_reads_nothing() {
    let (reader, mut writer) = pipe().unwrap();
    let (stream, _guest) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    let source = reader.try_clone().unwrap();
    thread::spawn(move || copy(source.as_fd(), stream.as_fd(), Some(stream.as_fd()), None, || {}));
    // More than the socket and the pipe hold, without blocking.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for _ in 0..1000 {
            let _ = writer.write(&[0; 4096]);
            thread::sleep(Duration::from_micros(200));
        }
        sender.send(()).unwrap();
    });
    receiver.recv_timeout(Duration::from_secs(20)).expect("the pipe can be written to");
    drop(reader);
}

#[test]
fn input_that_never_ends_is_left_when_the_guest_closes() {
    let (reader, _writer) = pipe().unwrap();
    let (stream, guest) = UnixStream::pair().unwrap();
    let thread = thread::spawn(move || copy(reader.as_fd(), stream.as_fd(), Some(stream.as_fd()), None, || {}));
    drop(guest);
    assert_eq!(thread.join().unwrap().unwrap(), 0);
}

#[test]
fn a_reader_that_went_away_ends_the_direction() {
    let (mut source, stream) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    source.write_all(b"x").unwrap();
    let error = copy(stream.as_fd(), writer.as_fd(), None, None, || {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn outputs_are_waited_for() {
    let outputs = Outputs::default();
    outputs.wait();
    let running = Running::new(&outputs);
    let waiting = outputs.clone();
    let thread = thread::spawn(move || waiting.wait());
    drop(running);
    thread.join().unwrap();
    let _stuck = Running::new(&outputs);
    outputs.wait_timeout(Duration::from_millis(1));
    outputs.abandon();
    let start = Instant::now();
    outputs.wait();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn dev_null_is_no_stream() {
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(unless_null(null.as_fd()).unwrap().is_none());
    let zero = std::fs::File::open("/dev/zero").unwrap();
    assert!(unless_null(zero.as_fd()).unwrap().is_some());
}
