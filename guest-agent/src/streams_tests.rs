use tokio::io::{AsyncWriteExt, duplex};

use super::*;

fn run<F: Future>(future: F) -> F::Output {
    let builder = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    builder.unwrap().block_on(future)
}

#[test]
fn a_host_that_does_not_say_whom_it_means_is_waited_for_so_long() {
    run(async {
        let silent = greeting(std::future::pending::<io::Result<()>>()).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(greeting(async { Ok(5) }).await.unwrap(), 5);
    });
}

#[test]
fn a_stream_connected_first_is_claimed_at_once() {
    run(async {
        let streams = Streams::default();
        assert!(streams.offer(7, "seven").is_some());
        assert_eq!(streams.claim(7).await.unwrap(), "seven");
        assert!(streams.slots.lock().unwrap().1.is_empty());
    });
}

#[test]
fn a_claim_waits_for_its_stream_and_for_no_other() {
    run(async {
        let streams = Streams::default();
        let (claimed, ()) = tokio::join!(streams.claim(7), async {
            streams.offer(8, "eight");
            streams.offer(7, "seven");
        });
        assert_eq!(claimed.unwrap(), "seven");
    });
}

#[test]
fn a_claim_ends_when_nothing_comes_or_another_waits() {
    run(async {
        let streams = Streams::<&str>::default();
        let (first, second) = tokio::join!(streams.claim(7), streams.claim(7));
        assert!(matches!(first, Err(Error::Missing(7))));
        assert!(matches!(second, Err(Error::Twice(7))));
        assert!(streams.slots.lock().unwrap().1.is_empty());
    });
}

#[test]
fn nothing_is_left_of_a_stream_that_is_claimed() {
    run(async {
        let streams = Streams::default();
        let (mut host, guest) = duplex(64);
        host.write_all(&7u64.to_le_bytes()).await.unwrap();
        let begun = tokio::time::Instant::now();
        let ((), claimed) = tokio::join!(streams.connected(guest), async {
            while streams.slots.lock().unwrap().1.is_empty() {
                tokio::task::yield_now().await;
            }
            streams.claim(7).await
        });
        claimed.unwrap();
        assert!(begun.elapsed().is_zero(), "the task outlived the claim");
    });
}

#[test]
fn unclaimed_streams_are_bounded_and_time_out() {
    run(async {
        let streams = Streams::default();
        for token in 1..=MAX_UNCLAIMED as u64 {
            assert!(streams.offer(token, ()).is_some());
        }
        assert!(streams.offer(MAX_UNCLAIMED as u64 + 1, ()).is_none());
        assert!(streams.offer(1, ()).is_none(), "the token is taken");

        let streams = Streams::default();
        let (mut host, guest) = duplex(64);
        host.write_all(&9u64.to_le_bytes()).await.unwrap();
        streams.connected(guest).await;
        assert!(streams.slots.lock().unwrap().1.is_empty());
    });
}

#[test]
fn token_zero_is_no_stream() {
    assert!(Streams::default().offer(0, ()).is_none());
}
