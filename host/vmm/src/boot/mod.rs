//! From files to a guest that can be entered: kernel, initramfs, command line, memory map, CPU table.

mod cmdline;
mod kernel_image;
mod load_file;
mod mptable;
mod pvh;

pub use cmdline::{CommandLine, CommandLineError};
pub use kernel_image::{KernelImage, KernelImageError, Segment};
pub use mptable::{MAX_VCPUS, MpTableError, write_mp_table};
pub use pvh::{BootError, Entry, load};
