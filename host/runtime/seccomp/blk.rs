//! A block device's thread: one open file or device of the host, and nothing by which another could be opened.

use super::{Group, any, is, when};

const KEEP_SIZE: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
const ZERO_RANGE: u32 = libc::FALLOC_FL_ZERO_RANGE as u32;

/// Beside the common ones.
pub const GROUPS: &[Group] = &[
    Group {
        why: "the device's content",
        calls: &[
            any(libc::SYS_preadv),
            any(libc::SYS_preadv2),
            any(libc::SYS_pwritev),
            any(libc::SYS_pwritev2),
            any(libc::SYS_fdatasync),
        ],
    },
    Group {
        why: "discarding and zeroing; neither makes a file longer",
        calls: &[
            when(libc::SYS_fallocate, &[is(1, PUNCH_HOLE | KEEP_SIZE)]),
            when(libc::SYS_fallocate, &[is(1, ZERO_RANGE | KEEP_SIZE)]),
        ],
    },
];
