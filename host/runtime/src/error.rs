//! How errors become sentences.

use std::fmt;
use std::io;

/// An I/O error without the number that the standard library adds, in lower case as the kernel's own texts are used by others:
/// callers of an OCI runtime look for `no such file or directory` and `permission denied`.
pub struct Plain<'a>(pub &'a io::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = match (self.0.raw_os_error(), text.rfind(" (os error ")) {
            (Some(_), Some(end)) => &text[..end],
            _ => &text,
        };
        let mut characters = text.chars();
        if let Some(first) = characters.next() {
            write!(f, "{}{}", first.to_lowercase(), characters.as_str())?;
        }
        Ok(())
    }
}

/// Text from a guest, made safe to show: control characters, which could drive the reader's terminal, become spaces.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_read_as_the_kernel_says_them() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(Plain(&error).to_string(), "no such file or directory");
        assert_eq!(Plain(&io::Error::other("Odd")).to_string(), "odd");
    }

    #[test]
    fn guest_text_cannot_drive_the_terminal() {
        assert_eq!(shown("a\x1b[2Jb\r\n"), "a [2Jb");
    }
}
