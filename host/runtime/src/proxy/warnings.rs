//! What a container's proxy warns of (`log::warn!`): until the container is made its command tells it where it tells its own; afterwards it
//! is in the file of `--log`, if there is one. The streams are the container's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::protocol::{FromProxy, Sender};
use crate::error::shown;
use crate::log::Log as File;

/// No more than these: a guest can be the reason of some, again and again.
const MOST: usize = 64;

/// Where they go.
pub(super) struct Warnings {
    command: Sender,
    file: File,
    made: AtomicBool,
    left: AtomicUsize,
}

impl Warnings {
    fn new(command: Sender, file: File) -> Self {
        Self { command, file, made: AtomicBool::new(false), left: AtomicUsize::new(MOST) }
    }

    /// Tells them from now on.
    pub fn begin(command: Sender, file: File) -> &'static Self {
        let warnings: &'static Self = Box::leak(Box::new(Self::new(command, file)));
        if log::set_logger(warnings).is_ok() {
            log::set_max_level(LevelFilter::Warn);
        }
        warnings
    }

    /// The container is made.
    pub fn made(&self) {
        self.made.store(true, Ordering::Relaxed);
    }
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
            // An error is the command's end, or that of the file's place.
            let _ = match self.made.load(Ordering::Relaxed) {
                false => self.command.send(&FromProxy::Warning { message }),
                true => self.file.keep(record.level(), &message),
            };
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
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        let warnings =
            Warnings::new(Channel::new(here).sender().unwrap(), File::new(Some(file.clone()), Default::default()));
        let warn = |target: &str, level: Level, text: &str| {
            let mut record = Record::builder();
            warnings.log(&record.target(target).level(level).args(format_args!("{text}")).build());
        };
        warn("sandbox::blocks", Level::Warn, "in\tuse");
        warn("sandbox::blocks", Level::Debug, "found");
        warn("rustls", Level::Error, "a library");
        warn("sandbox", Level::Error, "two");
        warnings.made();
        (0..2 * MOST).for_each(|_| warn("sandbox::watching", Level::Warn, "lost"));
        drop(warnings);
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(
            text.lines().filter(|line| line.ends_with(" level=warning msg=\"lost\"")).count(),
            MOST - 2,
            "{text}"
        );
        let told = std::iter::from_fn(|| command.receive().unwrap());
        let told: Vec<FromProxy> = told.collect();
        let expected = ["in use", "two"].map(|message| FromProxy::Warning { message: message.to_string() });
        assert_eq!(told, expected);
    }
}
