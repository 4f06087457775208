//! A file server's worker: what virtiofsd's passthrough does for the guest, in a root that holds the shares alone.
//!
//! Not here, though the file server could use it: open_by_handle_at, which would open any file of a shared file system.

use super::{Group, any, is, when};

const KEEP: u32 = u32::MAX; // (uid_t) -1 and (gid_t) -1: leave this ID as it is

/// Beside the common ones.
pub const GROUPS: &[Group] = &[
    Group {
        why: "waiting for the driver's kicks",
        calls: &[
            any(libc::SYS_epoll_wait),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_poll),
            any(libc::SYS_ppoll),
        ],
    },
    Group {
        why: "finding, opening and listing files",
        calls: &[
            any(libc::SYS_openat),
            any(libc::SYS_openat2),
            any(libc::SYS_statx),
            any(libc::SYS_newfstatat),
            any(libc::SYS_fstat),
            any(libc::SYS_fstatfs),
            any(libc::SYS_readlinkat),
            any(libc::SYS_getdents64),
            any(libc::SYS_lseek),
            any(libc::SYS_dup),
            when(libc::SYS_fcntl, &[is(1, libc::F_GETFL as u32)]),
            when(libc::SYS_fcntl, &[is(1, libc::F_SETFL as u32)]),
        ],
    },
    Group {
        why: "their content",
        calls: &[
            any(libc::SYS_pread64),
            any(libc::SYS_preadv),
            any(libc::SYS_preadv2),
            any(libc::SYS_readv),
            any(libc::SYS_pwrite64),
            any(libc::SYS_pwritev),
            any(libc::SYS_pwritev2),
            any(libc::SYS_ftruncate),
            any(libc::SYS_fallocate),
            any(libc::SYS_copy_file_range),
            any(libc::SYS_fsync),
            any(libc::SYS_fdatasync),
            any(libc::SYS_syncfs),
            any(libc::SYS_flock),
        ],
    },
    Group {
        why: "making, naming and removing them",
        calls: &[
            any(libc::SYS_mkdirat),
            any(libc::SYS_mknodat),
            any(libc::SYS_symlinkat),
            any(libc::SYS_linkat),
            any(libc::SYS_renameat),
            any(libc::SYS_renameat2),
            any(libc::SYS_unlinkat),
        ],
    },
    Group {
        why: "owner, mode, times, extended attributes",
        calls: &[
            any(libc::SYS_fchmod),
            any(libc::SYS_fchmodat),
            any(libc::SYS_fchmodat2),
            any(libc::SYS_fchownat),
            any(libc::SYS_utimensat),
            any(libc::SYS_getxattr),
            any(libc::SYS_fgetxattr),
            any(libc::SYS_listxattr),
            any(libc::SYS_flistxattr),
            any(libc::SYS_setxattr),
            any(libc::SYS_fsetxattr),
            any(libc::SYS_removexattr),
            any(libc::SYS_fremovexattr),
        ],
    },
    Group {
        why: "new files get the guest user's owner: the thread takes that effective user and its groups for the call",
        calls: &[
            any(libc::SYS_geteuid),
            any(libc::SYS_getegid),
            when(libc::SYS_setresuid, &[is(0, KEEP), is(2, KEEP)]),
            when(libc::SYS_setresgid, &[is(0, KEEP), is(2, KEEP)]),
            any(libc::SYS_setgroups),
            any(libc::SYS_umask),
        ],
    },
    Group {
        why: "CAP_FSETID is put aside for a write that must clear set-user-ID",
        calls: &[any(libc::SYS_capget), any(libc::SYS_capset)],
    },
    Group {
        why: "extended attributes of special files go through the working directory, each worker's own since before",
        calls: &[any(libc::SYS_fchdir)],
    },
];
