//! virtio file system device (virtio 1.2, section 5.11), answered in this process by virtiofsd's `PassthroughFs`,
//! with a server for files that have no name (O_TMPFILE), and one for requests that are only
//! said to be done, in front of it.
//!
//! ```text
//!  driver ──kick──▶ eventfd (semaphore) ──▶ one of the workers: pop a chain, answer it, give it back, interrupt
//! ```
//! Every worker sleeps on the same eventfd. A worker that pops a chain and sees another waiting passes the kick on, so requests
//! are served side by side as far as there are workers, and nobody is woken for nothing.

mod device;
mod persist;
mod replay;
mod request;
mod server;
mod tmpfile;
mod worker;
mod xattr_names;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_driver;
#[cfg(test)]
mod tests_guest;
#[cfg(test)]
mod tests_replay;
#[cfg(test)]
mod tests_tmpfile;

use std::time::Duration;

pub use device::{Fs, FsConfig, FsError};
pub use persist::FsState;
pub use replay::ReplayUids;
pub use virtiofsd::passthrough::CachePolicy;

/// How long the guest may trust what it knows of names and attributes: changes on the host are seen within this time.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
