//! The client against an agent and a monitor's socket made for the tests.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use protobuf::Message;
use tempfile::TempDir;
use ttrpc::proto::{Codec, MESSAGE_HEADER_LENGTH, MessageHeader};
use ttrpc::{Code, Request, Response, Status};

use super::*;

/// A monitor's socket that handles one connection.
fn socket(handle: impl FnOnce(UnixStream) + Send + 'static) -> (TempDir, PathBuf, JoinHandle<()>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || handle(listener.accept().unwrap().0));
    (directory, path, thread)
}

/// Reads the CONNECT line, and nothing after it.
pub(crate) fn connect_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line).unwrap();
    line
}

/// The next call and its number; nothing at the connection's end.
pub(crate) fn read_request(mut stream: &UnixStream) -> Option<(u32, Request)> {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    stream.read_exact(&mut header).ok()?;
    let header = MessageHeader::from(header);
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload).unwrap();
    Some((header.stream_id, Request::decode(&payload).unwrap()))
}

/// Answers a call.
pub(crate) fn reply(mut stream: &UnixStream, number: u32, answer: Result<Vec<u8>, (Code, &str)>) {
    let mut response = Response::default();
    match answer {
        Ok(payload) => response.payload = payload,
        Err((code, message)) => {
            let status = Status { code: code.into(), message: message.to_string(), ..Default::default() };
            response.status = MessageField::some(status);
        }
    }
    let bytes = response.encode().unwrap();
    let mut frame: Vec<u8> = MessageHeader::new_response(number, bytes.len() as u32).into();
    frame.extend(bytes);
    stream.write_all(&frame).unwrap();
}

/// An agent whose container runs until it gets a signal; its status is then 128 + signal.
fn agent(stream: UnixStream) {
    let mut waiting = None;
    while let Some((number, request)) = read_request(&stream) {
        assert_eq!(request.service, "sandbox.agent.v1.Agent");
        let answer = match request.method.as_str() {
            "CreateContainer" => {
                let asked = CreateContainerRequest::parse_from_bytes(&request.payload).unwrap();
                assert_eq!(asked.stdio.stdout_token, 7);
                assert!(asked.no_new_keyring);
                let answer = CreateContainerResponse { pid: asked.spec_json.len() as i32, ..Default::default() };
                Ok(answer.write_to_bytes().unwrap())
            }
            "StartContainer" => Err((Code::NOT_FOUND, "exec: \"foo\": executable file not found in $PATH")),
            "WaitProcess" => {
                waiting = Some(number);
                continue;
            }
            "SignalProcess" => {
                let signal = SignalProcessRequest::parse_from_bytes(&request.payload).unwrap().signal;
                let ended = WaitProcessResponse { exit_status: 128 + signal, signal, ..Default::default() };
                reply(&stream, waiting.take().unwrap(), Ok(ended.write_to_bytes().unwrap()));
                Ok(Vec::new())
            }
            _ => return,
        };
        reply(&stream, number, answer);
    }
}

#[test]
fn a_connection_waits_for_ok_and_keeps_what_follows() {
    let (_directory, path, thread) = socket(|mut stream| {
        assert_eq!(connect_line(&stream), "CONNECT 1025\n");
        thread::sleep(Duration::from_millis(20));
        stream.write_all(b"OK 1073741824\nhello").unwrap();
        let mut token = [0; 8];
        stream.read_exact(&mut token).unwrap();
        assert_eq!(u64::from_le_bytes(token), 0x0102);
    });
    let mut stream = connect_stdio(&path, 0x0102).unwrap();
    let mut rest = [0; 5];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"hello");
    thread.join().unwrap();
}

#[test]
fn refusal_end_and_silence_are_told_apart() {
    let short = Duration::from_millis(50);
    let (_directory, path, _thread) = socket(|mut stream| {
        connect_line(&stream);
        stream.write_all(b"no such port\n").unwrap();
    });
    assert!(matches!(connect(&path, 9, BOOT_TIMEOUT), Err(ConnectError::Refused { port: 9, .. })));
    let (_directory, path, _thread) = socket(|stream| drop(connect_line(&stream)));
    assert!(matches!(connect(&path, 9, BOOT_TIMEOUT), Err(ConnectError::Closed(9))));
    // Open until the connection was given up.
    let (given_up, until) = std::sync::mpsc::channel::<()>();
    let (_directory, path, _thread) = socket(move |stream| {
        let _ = until.recv();
        drop(stream);
    });
    assert!(matches!(connect(&path, 9, short), Err(ConnectError::Timeout(_))));
    drop(given_up);
    let (_directory, path, _thread) = socket(|mut stream| {
        connect_line(&stream);
        let _ = stream.write_all(&[b'x'; 1 << 16]);
    });
    assert!(matches!(connect(&path, 9, BOOT_TIMEOUT), Err(ConnectError::Refused { .. })));
}

#[test]
fn calls_are_answered() {
    let (_directory, path, thread) = socket(|mut stream| {
        assert_eq!(connect_line(&stream), "CONNECT 1024\n");
        stream.write_all(b"OK 5\n").unwrap();
        agent(stream);
    });
    let guest = Arc::new(Guest::connect(&path, "c1").unwrap());
    let created = guest
        .create(
            CreateContainerRequest {
                spec_json: vec![b' '; 1234],
                stdio: MessageField::some(Stdio { stdout_token: 7, ..Default::default() }),
                no_new_keyring: true,
                ..Default::default()
            },
            0,
        )
        .unwrap();
    assert_eq!(created.pid, 1234);
    let text = guest.start(false, u64::MAX).unwrap_err().to_string();
    assert_eq!(text, "exec: \"foo\": executable file not found in $PATH");
    let waiter = guest.clone();
    let waiting = thread::spawn(move || waiter.wait());
    // A signal overtakes the call that waits.
    thread::sleep(Duration::from_millis(20));
    guest.signal(15, false).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap().exit_status, 143);
    assert!(matches!(guest.shutdown(), Err(RpcError::Closed)));
    assert!(matches!(guest.wait(), Err(RpcError::Closed)));
    thread.join().unwrap();
}

#[test]
fn all_that_waits_ends_with_the_connection() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guest = Guest::over(ours, "c1").unwrap();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| guest.wait())).collect();
        for _ in 0..4 {
            read_request(&theirs).unwrap();
        }
        drop(theirs);
        assert!(waiting.into_iter().all(|call| matches!(call.join().unwrap(), Err(RpcError::Closed))));
    });
}

#[test]
fn a_silent_agent_is_waited_for_so_long() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let guest = Guest::over(ours, "c1").unwrap();
    let start = Instant::now();
    let error = guest.shutdown().unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }) && start.elapsed() >= SHUTDOWN_TIMEOUT);
    assert_eq!(error.to_string(), "the guest agent did not answer Shutdown within 2 s");
}

#[test]
fn an_agent_that_does_not_read_is_waited_for_no_longer() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let rpc = Rpc::new(ours).unwrap();
    let request = CreateContainerRequest { spec_json: vec![b' '; 3 << 20], ..Default::default() };
    let time = Duration::from_millis(200);
    let error = rpc.call::<_, Empty>("CreateContainer", &request, Some(time)).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { method: "CreateContainer", after } if after == time), "{error}");
    let error = rpc.call::<_, Empty>("Shutdown", &Empty::default(), Some(time)).unwrap_err();
    assert!(matches!(error, RpcError::Closed), "{error}");
}

#[test]
fn an_agents_sentence_cannot_drive_the_terminal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guest = Guest::over(ours, "c1").unwrap();
    thread::spawn(move || {
        let (number, _) = read_request(&theirs).unwrap();
        reply(&theirs, number, Err((Code::INTERNAL, "no\x1b[2J\nsuch\tthing\n")));
        read_request(&theirs);
    });
    assert_eq!(guest.wait().unwrap_err().to_string(), "no [2J such thing");
}

#[test]
fn a_hostile_answer_ends_the_connection() {
    for header in [MessageHeader::new_response(1, u32::MAX), MessageHeader::new_data(1, 0)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let guest = Guest::over(ours, "c1").unwrap();
        theirs.write_all(&Vec::from(header)).unwrap();
        assert!(matches!(guest.wait(), Err(RpcError::Closed)));
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let guest = Guest::over(ours, "c1").unwrap();
    thread::spawn(move || {
        let (number, _) = read_request(&theirs).unwrap();
        // An answer that nobody waits for, then one that is not what it should be.
        reply(&theirs, number + 2, Ok(Vec::new()));
        reply(&theirs, number, Ok(vec![0xff; 3]));
        read_request(&theirs);
    });
    assert!(matches!(guest.wait(), Err(RpcError::Malformed { .. })));
}

#[test]
fn a_configuration_that_no_message_holds_is_refused() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let guest = Guest::over(ours, "c1").unwrap();
    let error =
        guest.create(CreateContainerRequest { spec_json: vec![0; 5 << 20], ..Default::default() }, 0).unwrap_err();
    assert!(matches!(error, RpcError::TooLarge(_)));
}
