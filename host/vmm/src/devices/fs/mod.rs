//! virtio file system device (virtio 1.2, section 5.11), answered in this process by virtiofsd's `PassthroughFs`.
//!
//! ```text
//!  driver ──kick──▶ eventfd (semaphore) ──▶ one of the workers: pop a chain, answer it, give it back, interrupt
//! ```
//! Every worker sleeps on the same eventfd. A worker that pops a chain and sees another waiting passes the kick on, so requests
//! are served side by side as far as there are workers, and nobody is woken for nothing.

mod device;
mod persist;
mod request;
mod worker;

#[cfg(test)]
mod tests;

pub use device::{Fs, FsConfig, FsError};
pub use persist::FsState;
