use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use agent_protocol::names::Way;

/// The host's end, and where programs ask.
struct Host {
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Host {
    fn start() -> Host {
        let sockets = Sockets::bind().unwrap();
        let (udp, tcp) = (sockets.udp.local_addr().unwrap(), sockets.tcp.local_addr().unwrap());
        let (host, agent) = tokio::io::duplex(1 << 20);
        let (from_host, to_host) = tokio::io::split(agent);
        tokio::spawn(carry(from_host, to_host, sockets));
        let (from, to) = tokio::io::split(host);
        Host { from, to, udp, tcp }
    }

    async fn question(&mut self) -> Frame {
        Frame::read(&mut self.from).await.unwrap()
    }

    async fn answer(&mut self, frame: &Frame, message: &[u8]) {
        let answer = Frame { token: frame.token, way: frame.way, message: message.to_vec() };
        answer.write(&mut self.to).await.unwrap();
    }
}

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn send(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut message).await.unwrap();
    message
}

#[tokio::test]
async fn datagrams_are_answered_in_any_order() {
    let mut host = Host::start();
    let (one, two) = (client().await, client().await);
    one.send_to(b"one?", host.udp).await.unwrap();
    let first = host.question().await;
    assert_eq!((first.way, first.message.as_slice()), (Way::Udp, b"one?".as_slice()));
    two.send_to(b"two?", host.udp).await.unwrap();
    let second = host.question().await;
    host.answer(&second, b"two!").await;
    host.answer(&second, b"again").await;
    host.answer(&Frame { way: Way::Tcp, ..host_frame(&first) }, b"the wrong way").await;
    host.answer(&first, b"too late").await;
    let mut buffer = [0; 100];
    let (length, from) = two.recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], from), (b"two!".as_slice(), host.udp));
    assert!(one.try_recv(&mut buffer).is_err(), "its question was taken back");
    // One that is too long, and one without an answer, harm nobody.
    one.send_to(&[0; LONGEST_DATAGRAM + 1], host.udp).await.unwrap();
    one.send_to(b"none?", host.udp).await.unwrap();
    let third = host.question().await;
    assert_eq!(third.message, b"none?");
    host.answer(&third, b"").await;
    one.send_to(b"more?", host.udp).await.unwrap();
    let fourth = host.question().await;
    host.answer(&fourth, b"more!").await;
    let length = one.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"more!");
}

fn host_frame(frame: &Frame) -> Frame {
    Frame { token: frame.token, way: frame.way, message: Vec::new() }
}

#[tokio::test]
async fn connections_carry_several_questions() {
    let mut host = Host::start();
    let mut stream = TcpStream::connect(host.tcp).await.unwrap();
    send(&mut stream, b"one?").await;
    send(&mut stream, &[b'?'; 65535]).await;
    let (first, second) = (host.question().await, host.question().await);
    assert_eq!((first.way, second.message.len()), (Way::Tcp, 65535));
    host.answer(&second, &[b'!'; 65535]).await;
    host.answer(&first, b"one!").await;
    assert_eq!(receive(&mut stream).await, [b'!'; 65535]);
    assert_eq!(receive(&mut stream).await, b"one!");
    // No answer closes it.
    send(&mut stream, b"none?").await;
    let third = host.question().await;
    host.answer(&third, b"").await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered() {
    let mut host = Host::start();
    let mut stream = TcpStream::connect(host.tcp).await.unwrap();
    send(&mut stream, b"last?").await;
    stream.shutdown().await.unwrap();
    let question = host.question().await;
    host.answer(&question, b"last!").await;
    assert_eq!(receive(&mut stream).await, b"last!");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_has_few_questions_under_way() {
    let mut host = Host::start();
    let mut stream = TcpStream::connect(host.tcp).await.unwrap();
    for number in 0..5 {
        send(&mut stream, &[number; 8]).await;
    }
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(host.question().await);
    }
    let next = timeout(Duration::from_millis(50), host.question()).await;
    assert!(next.is_err(), "{next:?}");
    host.answer(&asked[2], b"!").await;
    assert_eq!(host.question().await.message, [4; 8]);
}

#[tokio::test]
async fn all_ends_with_the_host() {
    let host = Host::start();
    let mut stream = TcpStream::connect(host.tcp).await.unwrap();
    send(&mut stream, b"one?").await;
    let Host { from, to, udp, tcp } = host;
    drop((from, to));
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    while TcpStream::connect(tcp).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(UdpSocket::bind(udp).await.is_ok(), "the port is free");
}
