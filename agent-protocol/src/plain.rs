//! How errors of the system read, on both sides.

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

/// How a process ended by a signal reads in the errors of runc, which are Go's: `killed`, `bad system call`.
pub struct SignalWords(pub i32);

impl fmt::Display for SignalWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "hangup",
            2 => "interrupt",
            3 => "quit",
            4 => "illegal instruction",
            5 => "trace/breakpoint trap",
            6 => "aborted",
            7 => "bus error",
            8 => "floating point exception",
            9 => "killed",
            10 => "user defined signal 1",
            11 => "segmentation fault",
            12 => "user defined signal 2",
            13 => "broken pipe",
            14 => "alarm clock",
            15 => "terminated",
            24 => "CPU time limit exceeded",
            25 => "file size limit exceeded",
            31 => "bad system call",
            other => return write!(f, "signal {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_read_as_the_kernel_says_them() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(Plain(&error).to_string(), "no such file or directory");
        assert_eq!(Plain(&io::Error::other("Odd")).to_string(), "odd");
        assert_eq!(SignalWords(31).to_string(), "bad system call");
        assert_eq!(SignalWords(40).to_string(), "signal 40");
    }
}
