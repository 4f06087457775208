//! What a container's proxy warns of (`log::warn!`) until the container is made goes to its command, and is told where the command tells its
//! own. Afterwards there is nobody, or `run`, whose streams are the container's.

use std::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::protocol::{FromProxy, Sender};
use crate::error::shown;

/// No more than these: a guest can be the reason of some, again and again.
const MOST: usize = 64;

struct Warnings {
    command: Sender,
    left: AtomicUsize,
}

/// Tells them from now on.
pub(super) fn begin(command: Sender) {
    let warnings: &'static Warnings = Box::leak(Box::new(Warnings { command, left: AtomicUsize::new(MOST) }));
    if log::set_logger(warnings).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// The container is made.
pub(super) fn end() {
    log::set_max_level(LevelFilter::Off);
}

impl Log for Warnings {
    /// What libraries tell is of no use to a caller.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        let one_less = |left: usize| left.checked_sub(1);
        if self.enabled(record.metadata())
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
        {
            let message = shown(&record.args().to_string());
            // An error is the command's end.
            let _ = self.command.send(&FromProxy::Warning { message });
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::protocol::Channel;
    use super::*;

    #[test]
    fn warnings_are_told_and_not_without_end() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut command = Channel::new(there);
        let warnings = Warnings { command: Channel::new(here).sender().unwrap(), left: AtomicUsize::new(2) };
        for (target, level, text) in [
            ("sandbox::blocks", Level::Warn, "in\tuse"),
            ("sandbox::blocks", Level::Debug, "found"),
            ("rustls", Level::Error, "a library"),
            ("sandbox", Level::Error, "two"),
            ("sandbox", Level::Error, "three"),
        ] {
            let mut record = Record::builder();
            warnings.log(&record.target(target).level(level).args(format_args!("{text}")).build());
        }
        drop(warnings);
        let told = std::iter::from_fn(|| command.receive().unwrap());
        let told: Vec<FromProxy> = told.collect();
        let expected = ["in use", "two"].map(|message| FromProxy::Warning { message: message.to_string() });
        assert_eq!(told, expected);
    }
}
