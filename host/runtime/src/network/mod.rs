//! A container's network. Its network namespace on the host stays the source of truth: whatever puts interfaces there (docker's hook,
//! a CNI plugin, a daemon later) needs to know nothing of micro-VMs. Each interface gets a tap beside it; what arrives at the one is
//! sent out by the other (tc), and the guest's own interface behind the tap has the name, addresses and routes of the host's.

mod answers;
mod changes;
pub mod devices;
mod error;
pub mod interfaces;
pub mod ipv6;
mod multicast;
pub(crate) mod names;
mod netlink;
mod redirect;
mod scan;
mod settings;
mod subnets;
mod sys;
mod tap;
mod watch;
pub mod windows;

pub use error::NetworkError;
pub use interfaces::Interfaces;
pub(crate) use watch::{Look, watch};
