//! Names of extended attributes, in the guest and on the host.
//!
//! `trusted.*` is for a system's administrator: overlayfs keeps there which names of an upper layer hide others. A root of the guest's is
//! none on the host, and what he wrote there the host's own overlayfs would believe. So the guest's `trusted.*` is `user.virtiofs.trusted.*`
//! on the host, under which nothing else is shown to the guest; the host's own `trusted.*` is not shown at all. With it the guest can use
//! shared directories as the upper layers of overlays: containers in a container.

use std::borrow::Cow;
use std::ffi::CStr;
use std::io;

use rustix::io::Errno;
use virtiofsd::passthrough::xattrmap::{AppliedRule, XattrMap};

/// virtiofsd's notation for that.
const RULES: &str = ":map:trusted.:user.virtiofs.:";

/// The rules for [`virtiofsd::passthrough::PassthroughFs`].
pub fn rules() -> io::Result<XattrMap> {
    XattrMap::try_from(RULES).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The host's name for one of the guest's.
///
/// # Errors
/// EPERM for a name that the guest may not use.
pub fn on_host<'a>(rules: &XattrMap, name: &'a CStr) -> Result<Cow<'a, CStr>, Errno> {
    match rules.map_client_xattr(name) {
        Ok(AppliedRule::Pass(name)) => Ok(name),
        Ok(AppliedRule::Unsupported) => Err(Errno::NOTSUP),
        Ok(AppliedRule::Deny) | Err(_) => Err(Errno::PERM),
    }
}

/// The names that the guest gets to see of the host's, each with its NUL.
pub fn shown(rules: &XattrMap, names: Vec<u8>) -> Vec<u8> {
    rules.map_server_xattrlist(names).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_administrator_is_a_user_of_the_hosts() {
        let rules = rules().unwrap();
        assert_eq!(&*on_host(&rules, c"trusted.overlay.opaque").unwrap(), c"user.virtiofs.trusted.overlay.opaque");
        assert_eq!(&*on_host(&rules, c"user.note").unwrap(), c"user.note");
        assert_eq!(&*on_host(&rules, c"security.capability").unwrap(), c"security.capability");
        assert_eq!(on_host(&rules, c"user.virtiofs.trusted.overlay.opaque").unwrap_err(), Errno::PERM);
        let names = b"user.note\0trusted.overlay.redirect\0user.virtiofs.trusted.x\0".to_vec();
        assert_eq!(shown(&rules, names), b"user.note\0trusted.x\0");
    }
}
