//! What a local file system does, one check after the other. Run natively and in a container on the same directory, the
//! answers must be the same.

macro_rules! same {
    ($what:expr, $got:expr, $want:expr) => {{
        let (got, want) = ($got, $want);
        if got != want {
            return Err(format!("{}: {:?} instead of {:?}", $what, got, want));
        }
    }};
}

mod attributes;
mod content;
mod locks;
mod names;
mod other;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::io::Errno;

pub use locks::try_lock;

type Check = (&'static str, fn(&Path) -> Result<(), String>);

const CHECKS: &[Check] = &[
    ("owner", attributes::owner),
    ("mode", attributes::mode),
    ("umask and default modes", attributes::umask),
    ("directory with set-group-id", attributes::setgid_directory),
    ("access by another user", attributes::other_user),
    ("times", attributes::times),
    ("xattrs", attributes::xattrs),
    ("file capabilities", attributes::file_capabilities),
    ("hard links", names::hard_links),
    ("symlinks", names::symlinks),
    ("sparse files", content::sparse),
    ("O_TMPFILE", content::tmpfile),
    ("flock", locks::flock),
    ("fcntl locks", locks::fcntl_locks),
    ("mmap shared", content::mmap_shared),
    ("mmap private", content::mmap_private),
    ("O_DIRECT", content::direct),
    ("fallocate", content::fallocate),
    ("punch hole", content::punch_hole),
    ("zero range", content::zero_range),
    ("rename", names::rename),
    ("rename exchange", names::rename_exchange),
    ("rename noreplace", names::rename_noreplace),
    ("unlinked but open", names::unlinked_open),
    ("names of any byte", names::names),
    ("large directory", names::large_directory),
    ("append", content::append),
    ("truncate", content::truncate),
    ("vectors and large blocks", content::large_blocks),
    ("copy_file_range", content::copy_file_range),
    ("pipes, sockets and devices", other::special_files),
    ("many open files", other::many_open),
    ("execute", other::execute),
    ("errors", other::errors),
    ("sync", other::sync),
    ("statfs", other::statfs),
    ("inotify", other::inotify),
];

/// Runs all checks in a directory; prints a line for each and returns the number that failed.
pub fn all(directory: &Path, overlay: bool) -> u8 {
    let mut failed = 0;
    let whiteout: Check = ("rename whiteout", names::rename_whiteout);
    // overlayfs does not do this one, natively or shared.
    let more = if overlay { None } else { Some(&whiteout) };
    for (index, (name, check)) in CHECKS.iter().chain(more).enumerate() {
        let place = directory.join(format!("check-{index}"));
        let result = fs::create_dir_all(&place).map_err(|error| error.to_string()).and_then(|()| check(&place));
        match result {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                println!("{name}: FAILED: {error}");
                failed += 1;
            }
        }
        if let Err(error) = fs::remove_dir_all(&place) {
            println!("{name}: FAILED: cannot be removed: {error}");
            failed += 1;
        }
    }
    failed
}

trait Tell<T> {
    fn tell(self, what: &str) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Tell<T> for Result<T, E> {
    fn tell(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

fn create(path: &Path, content: &[u8]) -> Result<File, String> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    let mut file = file.tell("create")?;
    file.write_all(content).tell("write")?;
    Ok(file)
}

fn errno<T>(result: io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw_os_error)
}
