//! The guest's wishes for memory, which it makes by connecting to [`agent_protocol::MEMORY_PORT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::report::Reporter;
use crate::control::MonitorEvent;

/// A guest may wish as often as it likes: one is reported, and those until it has been considered are the same.
#[derive(Clone, Default)]
pub struct Wishes(Arc<AtomicBool>);

impl Wishes {
    /// What is called for each.
    pub fn bell(&self, reporter: Arc<Reporter>) -> Box<dyn Fn() + Send + Sync> {
        let reported = Arc::clone(&self.0);
        Box::new(move || {
            if !reported.swap(true, Ordering::AcqRel) {
                reporter.send(&MonitorEvent::MemoryWanted);
            }
        })
    }

    /// The next one is another.
    pub fn considered(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn wishes_are_one_until_they_are_considered() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (wishes, reporter) = (Wishes::default(), Arc::new(Reporter::new(ours, false)));
        let bell = wishes.bell(reporter);
        (0..3).for_each(|_| bell());
        wishes.considered();
        (0..3).for_each(|_| bell());
        drop(bell);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"event\":\"memory_wanted\"}\n".repeat(2));
    }
}
