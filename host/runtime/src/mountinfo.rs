//! The lines of /proc/PID/mountinfo (proc(5)).

use std::path::PathBuf;

/// What one line says of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'l> {
    /// The directory of the file system that is seen.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Of the mount, separated by commas: `ro` or `rw` is among them.
    pub options: &'l str,
    /// The file system's type.
    pub kind: &'l str,
    /// Of the file system, separated by commas.
    pub file_system_options: &'l str,
}

/// The line's entry; nothing where it is no such line.
pub fn parse(line: &str) -> Option<Entry<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, mount_point) = (unescape(mount.next()?), unescape(mount.next()?));
    let options = mount.next()?;
    let mut file_system = file_system.split(' ');
    let kind = file_system.next()?;
    Some(Entry { root, mount_point, options, kind, file_system_options: file_system.nth(1)? })
}

/// Space, tab, newline and backslash are `\` and three octal digits there.
fn unescape(text: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain));
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let entry = parse(line).unwrap();
        assert_eq!((entry.root, entry.mount_point), (PathBuf::from("/mnt1"), PathBuf::from("/mnt 2")));
        assert_eq!((entry.options, entry.kind), ("rw,noatime", "ext3"));
        assert_eq!(entry.file_system_options, "rw,errors=continue");
        assert!(parse("36 35 98:0 /mnt1").is_none());
    }
}
