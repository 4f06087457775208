//! Files that a caller names, read whole. They may be pipes: their size is not known before.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest text that is taken.
const MOST: u64 = 4 << 20;

/// What a file holds.
pub(super) fn file(path: &Path) -> io::Result<Vec<u8>> {
    all(File::open(path)?)
}

/// Everything up to the end. A longer text is an error, not a shorter one.
pub(super) fn all(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if reader.take(MOST + 1).read_to_end(&mut text)? as u64 > MOST {
        return Err(io::Error::other("longer than 4 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_cut() {
        assert_eq!(all(io::repeat(7).take(MOST)).unwrap().len() as u64, MOST);
        assert_eq!(all(io::repeat(7)).unwrap_err().to_string(), "longer than 4 MiB");
        assert!(file(Path::new("/dev/null")).unwrap().is_empty());
    }
}
