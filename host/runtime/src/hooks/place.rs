//! Whether a hook runs in the guest.

use std::path::Path;

use oci_spec::runtime::Hook;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

/// Whether a createContainer or startContainer hook is a program of the container's root, and so one of the guest's. Its path is
/// resolved as the container sees it: a symbolic link of the image leads to a place in the image, never to one of the host.
pub fn in_guest(hook: &Hook, rootfs: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = open(rootfs, flags | OFlags::DIRECTORY, Mode::empty()) else { return false };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = openat2(&root, hook.path(), flags, Mode::empty(), resolve) else { return false };
    let Ok(stat) = fstat(&file) else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
}
