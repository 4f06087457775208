//! The questions that are under way, and who asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use agent_protocol::names::Way;
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::Instant;

/// No more at once.
const MOST: usize = 1024;

/// Nobody waits longer for an answer.
const REMEMBERED: Duration = Duration::from_secs(15);

/// Who gets the answer.
#[derive(Debug)]
pub enum Asker {
    /// A socket with this address.
    Udp(SocketAddr),
    /// The connection that keeps this place free for it.
    Tcp(OwnedPermit<Vec<u8>>),
}

impl Asker {
    /// By which the question came.
    pub fn way(&self) -> Way {
        match self {
            Asker::Udp(_) => Way::Udp,
            Asker::Tcp(_) => Way::Tcp,
        }
    }
}

/// By token. Tokens count up, so that the first is the oldest.
#[derive(Debug, Default)]
pub struct Questions {
    next: u32,
    under_way: BTreeMap<u32, (Instant, Asker)>,
}

impl Questions {
    /// A token for a new question, unless there are too many.
    pub fn add(&mut self, asker: Asker) -> Option<u32> {
        if self.under_way.len() >= MOST {
            let oldest = self.under_way.first_entry()?;
            if oldest.get().0.elapsed() < REMEMBERED {
                return None;
            }
            oldest.remove();
        }
        let token = self.next;
        self.next = self.next.wrapping_add(1);
        self.under_way.insert(token, (Instant::now(), asker));
        Some(token)
    }

    /// Who asked, once for each question, and only if the answer comes in time and by the same way.
    pub fn take(&mut self, token: u32, way: Way) -> Option<Asker> {
        let (asked, asker) = self.under_way.remove(&token)?;
        (asked.elapsed() < REMEMBERED && asker.way() == way).then_some(asker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(port: u16) -> Asker {
        Asker::Udp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_goes_to_who_asked() {
        let mut questions = Questions::default();
        let (one, two) = (questions.add(asker(1)).unwrap(), questions.add(asker(2)).unwrap());
        let port = |asker| match asker {
            Some(Asker::Udp(address)) => address.port(),
            _ => 0,
        };
        assert_eq!(port(questions.take(two, Way::Udp)), 2);
        assert_eq!(port(questions.take(two, Way::Udp)), 0);
        assert_eq!(port(questions.take(one, Way::Tcp)), 0);
        assert_eq!(port(questions.take(77, Way::Udp)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_forgotten_and_never_too_many() {
        let mut questions = Questions::default();
        let old = questions.add(asker(1)).unwrap();
        for _ in 1..MOST {
            assert!(questions.add(asker(2)).is_some());
        }
        assert!(questions.add(asker(3)).is_none());
        tokio::time::advance(REMEMBERED).await;
        assert!(questions.add(asker(3)).is_some());
        assert_eq!(questions.under_way.len(), MOST);
        assert!(questions.take(old, Way::Udp).is_none());
        assert!(questions.take(old + 1, Way::Udp).is_none(), "too late");
    }
}
