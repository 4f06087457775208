//! How full the guest is, and of what.

use std::fs;
use std::io;
use std::path::Path;

use crate::cgroup::CONTAINERS;

/// How far below what is free `memory.high` stays: an eighth of the guest, between these. The kernel's own reserves are about half of the
/// least (`min_free_kbytes`); the rest is for what processes take while they are slowed down, and for what the kernel keeps of each page
/// that comes (2 MiB for a block of 128).
const HEADROOM_LEAST: u64 = 64 << 20;
const HEADROOM_MOST: u64 = 512 << 20;

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the guest has.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What the containers use.
    pub used: u64,
    /// What of that the kernel could do without.
    pub cache: u64,
}

impl Figures {
    /// As they are now.
    pub fn read() -> io::Result<Figures> {
        let read = |file: &str| fs::read_to_string(Path::new(CONTAINERS).join(file));
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        Figures::of(&meminfo, &read("memory.current")?, &read("memory.stat")?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn of(meminfo: &str, current: &str, stat: &str) -> Option<Figures> {
        let kib = |key: &str| number(meminfo, key).map(|kib| kib.saturating_mul(1024));
        let stat = |key: &str| number(stat, key);
        // Files include what is in tmpfs, which is nowhere else.
        let files = stat("file")?.saturating_sub(stat("shmem")?);
        Some(Figures {
            total: kib("MemTotal:")?,
            free: kib("MemFree:")?,
            used: current.trim_end().parse().ok()?,
            cache: files.saturating_add(stat("slab_reclaimable")?),
        })
    }

    fn headroom(&self) -> u64 {
        (self.total / 8).clamp(HEADROOM_LEAST, HEADROOM_MOST)
    }

    /// About as much as use goes up and down by itself.
    fn slack(&self) -> u64 {
        self.total / 64
    }

    /// What the containers may use before they are slowed down. Never less than they do: the kernel would look for it at once, and make
    /// the agent wait.
    pub fn high(&self) -> u64 {
        self.used.saturating_add(self.free.saturating_sub(self.headroom()))
    }

    /// Whether they use about that much.
    pub fn is_full(&self) -> bool {
        self.free <= self.headroom().saturating_add(self.slack())
    }

    /// Whether more memory would help. Files are left half of it at most, as the host keeps them too; but those that the kernel cannot do
    /// without, against all appearance, must not slow down whoever uses them for ever.
    pub fn wants_more(&self) -> bool {
        let stuck = self.free.saturating_add(self.slack()) < self.headroom();
        self.is_full() && (stuck || self.used.saturating_sub(self.cache) > self.high() / 2)
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_kernels_files_are_read() {
        let meminfo = "MemTotal:         500000 kB\nMemFree:          400000 kB\nMemAvailable:     450000 kB\n";
        let stat = "anon 1000\nfile 900\nkernel 70\nshmem 300\nfile_mapped 5\nslab_reclaimable 40\nslab 60\n";
        let expected = Figures { total: 500_000 << 10, free: 400_000 << 10, used: 2000, cache: 640 };
        assert_eq!(Figures::of(meminfo, "2000\n", stat), Some(expected));
        assert_eq!(Figures::of("", "2000\n", stat), None);
        assert_eq!(Figures::of(meminfo, "max\n", stat), None);
        assert_eq!(Figures::of(meminfo, "2000\n", "file 900\n"), None);
    }

    #[test]
    fn headroom_is_kept() {
        let guest = |total: u64, free: u64, used: u64| Figures { total, free, used, cache: 0 };
        assert_eq!(guest(496 * MIB, 400 * MIB, 50 * MIB).high(), (450 - 64) * MIB);
        assert_eq!(guest(1024 * MIB, 900 * MIB, 50 * MIB).high(), (950 - 128) * MIB);
        assert_eq!(guest(64 << 30, 60 << 30, 0).high(), (60 << 30) - 512 * MIB);
        assert_eq!(guest(496 * MIB, 10 * MIB, 450 * MIB).high(), 450 * MIB);
        assert_eq!(guest(0, 0, 0).high(), 0);
    }

    #[test]
    fn files_alone_are_no_reason() {
        let guest = |used: u64, cache: u64| Figures {
            total: 496 * MIB,
            free: (450 - used) * MIB,
            used: used * MIB,
            cache: cache * MIB,
        };
        assert!(!guest(300, 0).is_full());
        assert!(guest(380, 0).wants_more());
        assert!(guest(380, 180).wants_more());
        assert!(guest(380, 200).is_full() && !guest(380, 200).wants_more());
        // Of which the kernel keeps more than it should.
        assert!(guest(400, 390).wants_more());
        assert!(!guest(100, 0).wants_more());
    }
}
