use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use agent_protocol::agent::HostSocket;
use rustix::net::Shutdown;
use tokio::io::AsyncReadExt;

use super::*;

/// What stands for the host's end of a stream.
struct Ends {
    client: UnixStream,
    host: UnixStream,
    carried: JoinHandle<()>,
}

/// A connection that is carried; `gone` is what the probe of the host's end says.
fn carried(gone: bool) -> Ends {
    let (client, accepted) = UnixStream::pair().unwrap();
    let (host, stream) = UnixStream::pair().unwrap();
    let (from_host, to_host) = stream.into_split();
    let carried = tokio::spawn(carry::carry(accepted, from_host, to_host, move || gone));
    Ends { client, host, carried }
}

async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let mut ends = carried(false);
    ends.client.write_all(&[b'?'; 100_000]).await.unwrap();
    ends.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ends.host).await, [b'?'; 100_000]);
    ends.host.write_all(&[b'!'; 100_000]).await.unwrap();
    ends.host.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ends.client).await, [b'!'; 100_000]);
    ends.carried.await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_gone_ends_it() {
    let mut ends = carried(false);
    ends.client.write_all(b"last words").await.unwrap();
    drop(ends.client);
    assert_eq!(read_all(&mut ends.host).await, b"last words");
    ends.carried.await.unwrap();
    // It ends what it sends, and is gone later.
    let mut ends = carried(false);
    ends.client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut ends.host).await, b"");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!ends.carried.is_finished());
    drop(ends.client);
    ends.carried.await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_gone_ends_it() {
    let mut ends = carried(true);
    ends.host.write_all(b"last words").await.unwrap();
    drop(ends.host);
    assert_eq!(read_all(&mut ends.client).await, b"last words");
    ends.carried.await.unwrap();
    assert!(ends.client.write_all(b"too late").await.is_err());
}

#[tokio::test]
async fn a_host_that_takes_no_more_is_told_to_the_client() {
    let mut ends = carried(false);
    rustix::net::shutdown(&ends.host, Shutdown::Read).unwrap();
    while ends.client.write_all(&[0; 1000]).await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The other direction goes on.
    ends.host.write_all(b"still here").await.unwrap();
    ends.host.shutdown().await.unwrap();
    let mut got = [0; 10];
    ends.client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
    ends.carried.await.unwrap();
}

#[tokio::test]
async fn nothing_piles_up() {
    let mut ends = carried(false);
    let mut sent = 0;
    while let Ok(Ok(length)) = timeout(Duration::from_millis(50), ends.client.write(&[0; 4096])).await {
        sent += length;
        assert!(sent < 4 << 20, "nobody reads");
    }
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    while received < sent {
        received += ends.host.read(&mut buffer).await.unwrap();
    }
}

/// Listeners in a directory, the way to them, and what serves them: each connection is answered with its socket's index.
fn served(place: &Path, count: usize) -> (Directory, oneshot::Sender<()>, JoinHandle<()>) {
    let directory = Directory::make(place.to_str().unwrap(), "box").unwrap();
    let listeners: Vec<_> = (0..count).map(|index| listen(&directory.address(&index.to_string())).unwrap()).collect();
    let (end, ended) = oneshot::channel();
    let answer = async |mut client: UnixStream, index: usize| {
        let mut all = read_all(&mut client).await;
        all.push(index as u8);
        client.write_all(&all).await.unwrap();
    };
    let task = tokio::spawn(async move {
        serve(&listeners, ended, answer).await;
    });
    (directory, end, task)
}

async fn ask(path: &Path) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    stream.shutdown().await.unwrap();
    read_all(&mut stream).await
}

#[tokio::test]
async fn every_socket_is_served() {
    let place = tempfile::tempdir().unwrap();
    let (directory, _end, _task) = served(place.path(), 3);
    for index in [0, 2, 1, 1, 0, 2] {
        assert_eq!(ask(&place.path().join("box").join(index.to_string())).await, [b'?', index]);
    }
    drop(directory);
    assert!(!place.path().join("box").exists());
}

#[tokio::test]
async fn what_waits_at_the_end_is_served_and_no_more_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let (_directory, end, task) = served(place.path(), 2);
    let path = place.path().join("box/1");
    let mut early: Vec<_> = (0..3).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
    drop(end);
    early.iter_mut().for_each(|stream| stream.shutdown(std::net::Shutdown::Write).unwrap());
    task.await.unwrap();
    for stream in &mut early {
        let mut all = Vec::new();
        std::io::Read::read_to_end(stream, &mut all).unwrap();
        assert_eq!(all, [1]);
    }
    assert!(UnixStream::connect(&path).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_does_not_hold_up_the_end() {
    let place = tempfile::tempdir().unwrap();
    let (_directory, end, task) = served(place.path(), 1);
    let _stays = std::os::unix::net::UnixStream::connect(place.path().join("box/0")).unwrap();
    drop(end);
    task.await.unwrap();
}

#[tokio::test]
async fn owners_and_modes_are_the_hosts() {
    let place = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    let directory = Directory::make(place.path().to_str().unwrap(), &long).unwrap();
    let _listener = listen(&directory.address("0")).unwrap();
    let own = rustix::process::getuid().as_raw();
    let owner = if own == 0 { (1000, 998) } else { (own, rustix::process::getgid().as_raw()) };
    directory.set("0", Some(owner), 0o660).unwrap();
    let found = std::fs::metadata(place.path().join(long).join("0")).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o660, owner.0, owner.1));
}

#[test]
fn a_directory_is_its_makers() {
    let place = tempfile::tempdir().unwrap();
    let make = || Directory::make(place.path().to_str().unwrap(), "box").unwrap();
    let (old, new) = (make(), make());
    drop(old);
    assert!(place.path().join("box").exists());
    drop(new);
    assert!(!place.path().join("box").exists());
}

#[test]
fn requests_are_checked() {
    let one = HostSocket { mode: 0o660, ..Default::default() };
    let request = |token, list| HostSockets { token, list, ..Default::default() };
    check(&request(0, vec![])).unwrap();
    check(&request(1, vec![one.clone(); MAX_SOCKETS])).unwrap();
    let wrong = [
        request(1, vec![]),
        request(0, vec![one.clone()]),
        request(1, vec![one.clone(); MAX_SOCKETS + 1]),
        request(1, vec![HostSocket { mode: 0o10000, ..Default::default() }]),
        request(1, vec![HostSocket { uid: u32::MAX, ..one }]),
    ];
    assert!(wrong.iter().all(|request| check(request).is_err()));
}

#[test]
fn tokens_differ() {
    let (one, two) = (token(), token());
    assert!(one != two && one != 0);
}
