//! What the kernel says of an inotify instance in /proc/PID/fdinfo.

/// A file handle (name_to_handle_at(2)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Its kind, as the file system numbers them.
    pub kind: i32,
    /// What the file system made it of.
    pub bytes: Vec<u8>,
}

/// MAX_HANDLE_SZ.
pub const HANDLE_MAX: usize = 128;

/// A watched file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its file system, as the kernel numbers devices inside: the major number times 2^20, and the minor number.
    pub device: u32,
    /// Which one there.
    pub handle: Handle,
}

/// The watches in an instance's fdinfo: what, and for which events. Those whose file system has no handles are left out.
pub fn watches(text: &str) -> impl Iterator<Item = (Object, u32)> {
    text.lines().filter_map(|line| {
        let words = line.strip_prefix("inotify ")?;
        let word =
            |key: &str| words.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
        let number = |key: &str| u32::from_str_radix(word(key)?, 16).ok();
        let bytes = hex(word("f_handle")?)?;
        let handle = Handle { kind: number("fhandle-type")?.cast_signed(), bytes };
        Some((Object { device: number("sdev")?, handle }, number("mask")?))
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() > 2 * HANDLE_MAX || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_read() {
        let text = "pos:\t0\nflags:\t02004000\nmnt_id:\t15\nino:\t1057\n\
            inotify wd:2 ino:9e7e sdev:80000d mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n\
            inotify wd:1 ino:1 sdev:2b mask:2 ignored_mask:0 \n\
            inotify wd:3 ino:1 sdev:2b mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:81 f_handle:7\n";
        let seen: Vec<_> = watches(text).collect();
        let handle = Handle { kind: 1, bytes: vec![0x7e, 0x9e, 0, 0, 0x64, 0x0d, 0x1b, 0x6d] };
        assert_eq!(seen, [(Object { device: 0x80000d, handle }, 0xfce)]);
    }
}
