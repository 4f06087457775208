//! What the file systems can do that state and bundles lie on.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::Finding;
use crate::error::Plain;

/// A directory that is there: the one that is meant, or the nearest one above it; and how to show it.
fn nearest(subject: &str, directory: &Path) -> Result<(PathBuf, String), Finding> {
    // A relative path has nothing above it.
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf());
    match absolute.ancestors().find(|path| path.is_dir()) {
        None => Err(Finding::fail(subject, format!("neither {} nor a directory above it exists", directory.display()))),
        Some(found) if found == absolute => Ok((found.to_path_buf(), directory.display().to_string())),
        Some(found) => {
            let shown = format!("{} (not there yet; looked at {})", directory.display(), found.display());
            Ok((found.to_path_buf(), shown))
        }
    }
}

/// Whether containers' state can be kept in `directory`. It takes nothing of the file system that each does not have.
pub fn writable(subject: &str, directory: &Path) -> Finding {
    let (nearest, shown) = match nearest(subject, directory) {
        Ok(found) => found,
        Err(finding) => return finding,
    };
    match rustix::fs::access(&nearest, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::ok(subject, format!("{shown}: can be written")),
        Err(errno) => Finding::fail(
            subject,
            format!("{shown}: cannot be written: {}: name another with --root", Plain(&errno.into())),
        ),
    }
}

/// O_TMPFILE, extended attributes and openat2 in `directory`, or in the nearest one above it that exists. Leaves nothing behind.
pub fn features(subject: &str, directory: &Path) -> Finding {
    let (nearest, shown) = match nearest(subject, directory) {
        Ok(found) => found,
        Err(finding) => return finding,
    };
    if let Err(errno) = resolve(&nearest) {
        return Finding::fail(
            subject,
            format!("{shown}: openat2 does not work ({}): use a newer kernel", Plain(&errno.into())),
        );
    }
    let file =
        match rustix::fs::open(&nearest, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                return Finding::warn(subject, format!("{shown}: no O_TMPFILE, so containers have none there either"));
            }
            Err(errno) => {
                return Finding::warn(subject, format!("{shown}: cannot be written: {}", Plain(&errno.into())));
            }
        };
    match rustix::fs::fsetxattr(&file, c"user.sandbox", b"1", XattrFlags::empty()) {
        Ok(()) => Finding::ok(subject, format!("{shown}: O_TMPFILE, extended attributes, openat2")),
        Err(_) => Finding::warn(
            subject,
            format!("{shown}: no user extended attributes, so containers have none there either"),
        ),
    }
}

fn resolve(directory: &Path) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map(drop)
}
