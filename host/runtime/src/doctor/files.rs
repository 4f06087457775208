//! What the file systems can do that state and bundles lie on.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::Finding;
use crate::error::Plain;

/// O_TMPFILE, extended attributes and openat2 in `directory`, or in the nearest one above it that exists. Leaves nothing behind.
pub fn features(subject: &str, directory: &Path) -> Finding {
    let Some(nearest) = directory.ancestors().find(|path| path.is_dir()) else {
        return Finding::fail(subject, format!("neither {} nor a directory above it exists", directory.display()));
    };
    let shown = match nearest == directory {
        true => directory.display().to_string(),
        false => format!("{} (not there yet; looked at {})", directory.display(), nearest.display()),
    };
    if let Err(errno) = resolve(nearest) {
        return Finding::fail(
            subject,
            format!("{shown}: openat2 does not work ({}): use a newer kernel", Plain(&errno.into())),
        );
    }
    let file =
        match rustix::fs::open(nearest, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
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
