//! The container's user: ids, groups, home directory.

use std::collections::BTreeSet;
use std::io;

use rustix::process::{Gid, Uid};

/// Becomes the user, keeping the permitted capabilities for a moment, until they are set anew.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // Callers name a group twice: one that is given and has the user as a member. The kernel would show it twice.
    let groups: BTreeSet<u32> = groups.iter().copied().collect();
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&groups)?;
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    Ok(())
}

/// The home directory that a passwd(5) file gives the user; `/` when it gives none.
pub fn home(passwd: &str, uid: u32) -> &str {
    let line = passwd.lines().find(|line| line.split(':').nth(2).and_then(|f| f.trim().parse().ok()) == Some(uid));
    line.and_then(|line| line.split(':').nth(5)).filter(|home| !home.is_empty()).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::home;

    #[test]
    fn home_comes_from_the_users_line() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n::\nme:x:1000:1000::/home/me:/bin/sh\nno:x:7:7:::\n";
        assert_eq!(home(passwd, 0), "/root");
        assert_eq!(home(passwd, 1000), "/home/me");
        assert_eq!(home(passwd, 7), "/");
        assert_eq!(home(passwd, 42), "/");
        assert_eq!(home("", 0), "/");
    }
}
