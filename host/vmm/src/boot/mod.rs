//! From files to a guest that can be entered: kernel, initramfs, command line, memory map, CPU table.

mod cmdline;
mod mptable;
mod pvh;

pub use cmdline::{CommandLine, CommandLineError};
pub use mptable::{MpTableError, write_mp_table};
pub use pvh::{BootError, Entry, load};
