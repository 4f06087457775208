use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;

use rustix::net::sockopt::socket_peercred;
use tempfile::TempDir;

use super::*;

/// Stands for the monitor and the agent: each connection says where it goes, and by which token.
struct Agent {
    listener: UnixListener,
    place: TempDir,
}

impl Agent {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { listener: UnixListener::bind(place.path().join("vsock.sock")).unwrap(), place }
    }

    fn guest(&self) -> PathBuf {
        self.place.path().join("vsock.sock")
    }

    /// A listener of the host's, and its description.
    fn socket(&self, name: &str) -> (UnixListener, HostSocket) {
        let path = self.place.path().canonicalize().unwrap().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        (listener, HostSocket { path, mode: 0o600, uid: 0, gid: 0 })
    }

    /// The next stream and its token.
    fn accept(&self) -> (UnixStream, u64) {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut line = String::new();
        let mut reader = BufReader::with_capacity(1, stream.try_clone().unwrap());
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "CONNECT 1025\n");
        stream.write_all(b"OK 1\n").unwrap();
        let mut token = [0; 8];
        stream.read_exact(&mut token).unwrap();
        (stream, u64::from_le_bytes(token))
    }
}

fn everybody() -> Identities {
    Identities::of(&serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0"})).unwrap())
}

/// This process's user and group.
fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn a_container_without_sockets_costs_nothing() {
    assert!(start(Path::new("/nonexistent"), HostSockets::default()).unwrap().is_none());
}

#[test]
fn connections_are_carried() {
    let agent = Agent::new();
    let ((_first, one), (second, two)) = (agent.socket("one"), agent.socket("two"));
    let sockets = HostSockets { list: vec![one, two], identities: everybody() };
    let (described, carrying) = start(&agent.guest(), sockets).unwrap().unwrap();
    assert_eq!(described.list.len(), 2);
    let (mut tell, token) = agent.accept();
    assert_eq!(token, described.token);
    let (uid, gid) = own();
    // None of these is: the agent closes them.
    for (index, uid) in [(2, uid), (u32::MAX, uid), (1, u32::MAX)] {
        tell.write_all(&SocketConnection { token: 5, index, uid, gid }.to_bytes()).unwrap();
    }
    tell.write_all(&SocketConnection { token: 7, index: 1, uid, gid }.to_bytes()).unwrap();
    let (mut client, token) = agent.accept();
    assert_eq!(token, 7);
    let (mut server, _) = second.accept().unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), b"question");
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(read_all(&client), b"answer");
    drop(client);
    carrying.finish();
    assert_eq!(*carrying.0.count(), 0);
}

#[test]
fn a_service_that_is_not_there_ends_the_connection() {
    let agent = Agent::new();
    let (listener, socket) = agent.socket("one");
    drop(listener);
    let sockets = HostSockets { list: vec![socket], identities: everybody() };
    let _carrying = start(&agent.guest(), sockets).unwrap().unwrap();
    let (mut tell, _) = agent.accept();
    let (uid, gid) = own();
    tell.write_all(&SocketConnection { token: 7, index: 0, uid, gid }.to_bytes()).unwrap();
    assert_eq!(read_all(&agent.accept().0), b"");
}

#[test]
fn there_are_not_too_many() {
    let open = Arc::new(Open::default());
    let places: Vec<_> = (0..MAX_SOCKET_CONNECTIONS).map(|_| open.add().unwrap()).collect();
    assert!(open.add().is_none());
    drop(places);
    assert!(open.add().is_some());
}

/// As root: the service sees the container's user, not root, and the thread reaches what root reaches.
#[test]
fn the_service_sees_who_connects() {
    if own().0 != 0 {
        return;
    }
    let agent = Agent::new();
    let (listener, socket) = agent.socket("one");
    let hidden = agent.place.path().join("hidden");
    std::fs::create_dir(&hidden).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&hidden, closed).unwrap();
    let (path, moved) = (socket.path.clone(), hidden.canonicalize().unwrap().join("one"));
    std::fs::rename(path, &moved).unwrap();
    let sockets = HostSockets { list: vec![HostSocket { path: moved, ..socket }], identities: everybody() };
    let (_, carrying) = start(&agent.guest(), sockets).unwrap().unwrap();
    let (mut tell, _) = agent.accept();
    tell.write_all(&SocketConnection { token: 7, index: 0, uid: 1234, gid: 5678 }.to_bytes()).unwrap();
    let (client, _) = agent.accept();
    let (server, _) = listener.accept().unwrap();
    let credentials = socket_peercred(&server).unwrap();
    assert_eq!((credentials.uid.as_raw(), credentials.gid.as_raw()), (1234, 5678));
    assert_eq!(credentials.pid, rustix::process::getpid());
    rustix::net::sockopt::set_socket_passcred(&server, true).unwrap();
    (&client).write_all(b"x").unwrap();
    assert_eq!(sender_of(&server), (1234, 5678));
    assert_eq!(own(), (0, 0), "only the connection's thread is somebody else");
    let kept = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(kept, rustix::process::DumpableBehavior::Dumpable);
    drop((client, server));
    carrying.finish();
}

/// Who sent the next bytes (SCM_CREDENTIALS).
fn sender_of(stream: &UnixStream) -> (u32, u32) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [io::IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()).unwrap();
    let found = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(of) => Some((of.uid.as_raw(), of.gid.as_raw())),
        _ => None,
    });
    found.unwrap()
}
