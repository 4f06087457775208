//! The container's session keyring: keys that one of its processes adds are found by the others, and by nobody else.

use std::ffi::CString;
use std::io;

use crate::sys;

/// Everything to who possesses it; to its user what a session keyring usually has: view, read, link.
const USUAL: u32 = 0x3f13_0000;
/// It is found by its name by processes that do not possess it yet: those of its user, or all of a user namespace.
const SEARCH_BY_USER: u32 = 0x0008_0000;
const SEARCH_BY_OTHERS: u32 = 0x0000_0008;

/// A session keyring with a name.
pub struct Keyring {
    name: CString,
    permissions: u32,
}

impl Keyring {
    /// That of a container.
    pub fn of(container_id: &str, user_namespace: bool) -> Option<Keyring> {
        let search = if user_namespace { SEARCH_BY_OTHERS } else { SEARCH_BY_USER };
        Some(Keyring { name: CString::new(format!("_ses.{container_id}")).ok()?, permissions: USUAL | search })
    }

    /// Makes it the calling process's, for those to come too.
    pub fn create(&self) -> io::Result<()> {
        match self.enter()? {
            Some(serial) => sys::set_key_permissions(serial, self.permissions),
            None => Ok(()),
        }
    }

    /// Makes it the calling process's. Its permissions are the container's to change.
    pub fn join(&self) -> io::Result<()> {
        self.enter().map(drop)
    }

    /// None where the kernel has no keyrings.
    fn enter(&self) -> io::Result<Option<i32>> {
        match sys::join_session_keyring(&self.name) {
            Ok(serial) => Ok(Some(serial)),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
