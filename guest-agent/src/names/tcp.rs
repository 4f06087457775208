//! Questions that come on connections: each message has its length before it, and a connection can carry several, answered in any order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::questions::Asker;
use super::{Carrier, wait_after_error};

/// Further ones wait until one is closed.
const MOST_CONNECTIONS: usize = 64;

/// A connection on which nothing happens for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// How many questions of one connection are under way at once: an answer can be long, and who asked need not read it.
const MOST_QUESTIONS: usize = 4;

/// Takes connections for ever.
pub async fn accept(listener: TcpListener, carrier: Arc<Carrier>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, carrier.clone()));
                }
                Err(error) => wait_after_error(error).await,
            },
        }
    }
}

async fn serve(stream: TcpStream, carrier: Arc<Carrier>) {
    let (from, to) = stream.into_split();
    let (sender, answers) = mpsc::channel(MOST_QUESTIONS);
    let mut reply = pin!(reply(to, answers));
    tokio::select! {
        () = &mut reply => return,
        () = ask(from, sender, &carrier) => {}
    }
    // What was asked until then is still answered.
    let _ = timeout(IDLE, reply).await;
}

/// Carries questions until there is none for too long.
async fn ask(mut from: OwnedReadHalf, sender: mpsc::Sender<Vec<u8>>, carrier: &Carrier) {
    loop {
        let next = async {
            let place = sender.clone().reserve_owned().await.map_err(io::Error::other)?;
            let length = from.read_u16().await?;
            let mut question = vec![0; length.into()];
            from.read_exact(&mut question).await?;
            Ok::<_, io::Error>((place, question))
        };
        let Ok(Ok((place, question))) = timeout(IDLE, next).await else { return };
        if !carrier.ask(Asker::Tcp(place), question).await {
            return;
        }
    }
}

/// Sends answers until there is one that means that there is none, or nobody asks any more.
async fn reply(mut to: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) {
    while let Some(answer) = answers.recv().await {
        let Ok(length @ 1..) = u16::try_from(answer.len()) else { return };
        let bytes = [&length.to_be_bytes(), answer.as_slice()].concat();
        if !matches!(timeout(IDLE, to.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}
