//! What a container's first process is, apart from where it lives: user, capabilities, limits, program.

pub mod affinity;
pub mod caps;
pub mod identity;
pub mod keyring;
pub mod limits;
pub mod lookup;
