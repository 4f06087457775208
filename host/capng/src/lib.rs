//! The few calls of libcap-ng that `virtiofsd` makes, over the `caps` crate.
//!
//! `Cargo.toml` puts this crate in the place of the one that binds the C library: libcap-ng is LGPL, and would be the only
//! thing that keeps `sandbox` from being one static file. As in libcap-ng, [`update`] stages changes for the calling thread
//! and [`apply`] makes them; both concern the calling thread only, which is what a file server thread wants that drops
//! CAP_FSETID for one write.

use std::cell::RefCell;
use std::str::FromStr;

use caps::CapSet;

/// A capability's number, as in `linux/capability.h`.
pub type Capability = u32;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is not a capability's.
    #[error("unknown capability {0}")]
    UnknownCapability(String),
    /// capset(2) or prctl(2) refused the change.
    #[error("cannot change capabilities: {0}")]
    Apply(String),
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Which of a thread's sets a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::upper_case_acronyms)] // libcap-ng's names
pub enum Type {
    /// The effective set.
    EFFECTIVE,
}

/// What [`clear`] and [`apply`] act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::upper_case_acronyms)]
pub enum Set {
    /// Effective, permitted and inheritable sets.
    CAPS,
    /// These and the bounding set.
    BOTH,
}

/// Whether a change adds or removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::upper_case_acronyms)]
pub enum Action {
    /// Remove the capability.
    DROP,
    /// Add the capability.
    ADD,
}

/// One staged change.
#[derive(Clone, Copy, Debug)]
pub struct CUpdate {
    /// Add or remove.
    pub action: Action,
    /// The set it concerns.
    pub cap_type: Type,
    /// The capability.
    pub capability: Capability,
}

#[derive(Clone, Copy)]
enum Staged {
    Clear(Set),
    Update(CUpdate),
}

thread_local! {
    static STAGED: RefCell<Vec<Staged>> = const { RefCell::new(Vec::new()) };
}

/// Stages the removal of every capability in `set`.
pub fn clear(set: Set) {
    STAGED.with_borrow_mut(|staged| {
        staged.clear();
        staged.push(Staged::Clear(set));
    });
}

/// Forgets staged changes; the kernel's state is read anew whenever it is asked for.
pub fn get_caps_process() -> Result<()> {
    STAGED.with_borrow_mut(Vec::clear);
    Ok(())
}

/// Stages changes of the calling thread's capabilities.
pub fn update(updates: Vec<CUpdate>) -> Result<()> {
    STAGED.with_borrow_mut(|staged| staged.extend(updates.into_iter().map(Staged::Update)));
    Ok(())
}

/// Makes the staged changes.
pub fn apply(_set: Set) -> Result<()> {
    let staged = STAGED.with_borrow_mut(std::mem::take);
    for change in staged {
        match change {
            Staged::Clear(set) => clear_now(set)?,
            Staged::Update(update) => update_now(update)?,
        }
    }
    Ok(())
}

/// Whether the calling thread has the capability.
pub fn have_capability(which: Type, capability: Capability) -> bool {
    from_number(capability).is_ok_and(|cap| caps::has_cap(None, set_of(which), cap).unwrap_or(false))
}

/// The number of a capability, by its name without `CAP_`, in any case.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    caps::Capability::from_str(&caps::to_canonical(name))
        .map(|cap| Capability::from(cap.index()))
        .map_err(|_| Error::UnknownCapability(name.to_owned()))
}

fn clear_now(set: Set) -> Result<()> {
    if set == Set::BOTH {
        caps::clear(None, CapSet::Bounding).map_err(apply_error)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(apply_error)?;
    }
    Ok(())
}

fn update_now(update: CUpdate) -> Result<()> {
    let cap = from_number(update.capability)?;
    let set = set_of(update.cap_type);
    match update.action {
        Action::ADD => caps::raise(None, set, cap),
        Action::DROP => caps::drop(None, set, cap),
    }
    .map_err(apply_error)
}

fn set_of(which: Type) -> CapSet {
    match which {
        Type::EFFECTIVE => CapSet::Effective,
    }
}

fn from_number(number: Capability) -> Result<caps::Capability> {
    caps::all()
        .into_iter()
        .find(|cap| Capability::from(cap.index()) == number)
        .ok_or_else(|| Error::UnknownCapability(number.to_string()))
}

fn apply_error(err: caps::errors::CapsError) -> Error {
    Error::Apply(err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_and_without_case() {
        assert_eq!(name_to_capability("FSETID").unwrap(), 4);
        assert_eq!(name_to_capability("fsetid").unwrap(), 4);
        assert!(name_to_capability("NO_SUCH").is_err());
    }

    #[test]
    fn a_dropped_capability_comes_back() {
        let cap = name_to_capability("FSETID").unwrap();
        if !have_capability(Type::EFFECTIVE, cap) {
            return; // not root: nothing to drop
        }
        for (action, expected) in [(Action::DROP, false), (Action::ADD, true)] {
            update(vec![CUpdate { action, cap_type: Type::EFFECTIVE, capability: cap }]).unwrap();
            assert_eq!(have_capability(Type::EFFECTIVE, cap), !expected, "only staged");
            apply(Set::CAPS).unwrap();
            assert_eq!(have_capability(Type::EFFECTIVE, cap), expected);
        }
    }
}
