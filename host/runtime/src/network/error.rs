//! What can fail between a container's network namespace and its guest.

use std::io;

use crate::error::Plain;
use crate::guest::GuestError;
use crate::monitor_process::MonitorError;
use crate::rpc::RpcError;

/// Why a container's guest does not have the network that its namespace has.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's own view cannot be had.
    #[error("cannot read the container's network ({what}): {}", Plain(.source))]
    Scan {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An interface of `linux.netDevices`.
    #[error("linux.netDevices: cannot move network interface {name:?} into the container: {}", Plain(.source))]
    Device {
        /// Its name on the host.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The tap beside an interface.
    #[error("cannot make a tap for network interface {name:?}: {}; is the kernel's tun module there?", Plain(.source))]
    Tap {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// What joins the two.
    #[error(
        "cannot redirect network interface {name:?} into the guest: {}; the kernel's modules sch_ingress, cls_matchall and act_mirred are needed",
        Plain(.source)
    )]
    Redirect {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// More than the micro-VM has windows for.
    #[error("the container has {0} network interfaces; a micro-VM can have {max}", max = agent_protocol::MAX_INTERFACES)]
    TooMany(usize),
    /// An ipvlan in L3S mode.
    #[error(
        "network interface {0:?} is an ipvlan in L3S mode, whose packets cannot be sent on into the guest; give it the mode l2 or l3"
    )]
    PassesBy(String),
    /// Two micro-VMs cannot have one address.
    #[error(
        "the network namespace belongs to another container's micro-VM already, and to none below this --root: only containers with the same --root can share a network"
    )]
    Taken,
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The monitor's answer to an order.
    #[error("the monitor cannot plug in network interface {name:?}: {reason}")]
    Plug {
        /// The interface.
        name: String,
        /// Its sentence.
        reason: String,
    },
    /// The agent's answer.
    #[error("the guest cannot set up the network: {0}")]
    Guest(#[from] RpcError),
    /// The way to the guest.
    #[error(transparent)]
    Reach(#[from] GuestError),
}

impl NetworkError {
    pub(super) fn scan(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Scan { what, source }
    }
}
