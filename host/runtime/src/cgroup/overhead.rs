//! What a micro-VM takes beside its container's memory limit.

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// What proxy, monitor, the proxies of exec and what the kernel keeps for them take: programs, stacks, sockets, open files.
const PROCESSES: u64 = 128 << 20;
/// Page tables of a guest, the host's and the processor's: two of eight bytes for each page of 4 KiB, and as much again to spare.
const PAGE_TABLES_DIVISOR: u64 = 128;

/// Of memory that the guest gets later, what its kernel keeps of each page, 64 bytes of 4 KiB, and a 256th that it keeps free elsewhere
/// (`lowmem_reserve_ratio`): memory of the guest's, too.
const KEPT: (u64, u64) = (5, 256);
/// What it takes with that and page tables as above.
const GROWTH: (u64, u64) = (256, 256 + 5 + 2);

/// How far the host's memory limit is above the container's, in bytes. It is there for the host's sake; the container's own
/// limit is enforced in the guest, and met first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overhead {
    /// Added to what the container is given.
    pub above_limit: u64,
    /// The host's limit is never below this: a guest has the memory it was started with, and what it once touched it keeps,
    /// whatever the container's limit becomes later.
    pub least: u64,
    /// The guest's memory at the start, where it can have more later; else 0.
    #[serde(default)]
    pub start: u64,
}

impl Overhead {
    /// That of a container in a micro-VM of this size.
    pub fn of(spec: &Spec, machine: &Machine) -> Self {
        let guest = machine.memory_mib.saturating_mul(1 << 20);
        let least = guest.saturating_add(PROCESSES).saturating_add(guest / PAGE_TABLES_DIVISOR);
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let limit = resources.and_then(|r| r.memory().as_ref()).and_then(|memory| memory.limit()).unwrap_or(0);
        let limit = u64::try_from(limit).unwrap_or(0);
        // Without a limit that fits the guest, one that is set later gets what a guest without a limit would.
        let beside = if limit == 0 { 0 } else { guest.saturating_sub(limit) };
        let start = if machine.memory_most_mib > machine.memory_mib { guest } else { 0 };
        Self { above_limit: least.saturating_sub(guest).saturating_add(beside), least, start }
    }

    /// What the host's limit is where the guest has what it was started with.
    fn at_start(&self) -> u64 {
        self.start.saturating_add(PROCESSES).saturating_add(self.start / PAGE_TABLES_DIVISOR)
    }

    /// The host's limit without regard of what it must never be below.
    fn raised(&self, given: u64) -> u64 {
        let raised = given.saturating_add(self.above_limit);
        let more = if self.start == 0 { 0 } else { raised.saturating_sub(self.at_start()) };
        raised.saturating_add(more / GROWTH.0 * (GROWTH.1 - GROWTH.0))
    }

    /// How much of what the guest has beyond its start the host's limit leaves room for, what its kernel keeps of it included; and beside
    /// that.
    fn growth(&self, limit: u64) -> (u64, u64) {
        let more = if self.start == 0 { 0 } else { limit.saturating_sub(self.at_start()) };
        let container = u64::try_from(u128::from(more) * u128::from(GROWTH.0) / u128::from(GROWTH.1)).unwrap_or(more);
        (container.saturating_add(container / KEPT.1 * KEPT.0), more.saturating_sub(container))
    }

    /// The memory that the guest may have where this is the host's limit.
    pub fn guest(&self, limit: u64) -> u64 {
        self.start.saturating_add(self.growth(limit).0)
    }

    /// A limit of memory that the host is to keep: it must hold the whole guest.
    pub fn limit(&self, given: u64) -> u64 {
        self.raised(given).max(self.least)
    }

    /// The container's limit for which the host's is this.
    pub fn given(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.above_limit).saturating_sub(self.growth(limit).1)
    }

    /// A size that only protects memory or asks the kernel to take it first elsewhere.
    pub fn soft(&self, given: u64) -> u64 {
        given.saturating_add(self.above_limit)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn overhead(limit: i64, memory_mib: u64) -> Overhead {
        let config = json!({"ociVersion": "1.0.2", "linux": {"resources": {"memory": {"limit": limit}}}});
        Overhead::of(
            &serde_json::from_value(config).unwrap(),
            &Machine { memory_mib, memory_most_mib: memory_mib, vcpus: 1, cache: Default::default() },
        )
    }

    #[test]
    fn the_whole_guest_fits() {
        let overhead = overhead(64 << 20, 128);
        assert_eq!(overhead, Overhead { above_limit: (64 + 128 + 1) * MIB, least: (128 + 128 + 1) * MIB, start: 0 });
        assert_eq!(overhead.limit(64 * MIB), overhead.least);
        assert_eq!(overhead.limit(MIB), overhead.least, "a limit lowered later");
        assert_eq!(overhead.limit(65 * MIB), overhead.least + MIB);
        assert_eq!(overhead.soft(MIB), overhead.above_limit + MIB);
        assert_eq!(overhead.limit(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_guest_that_grows_has_room() {
        let fixed = overhead(64 << 20, 128);
        let grows = Overhead { start: 128 * MIB, ..fixed };
        assert_eq!((grows.limit(64 * MIB), grows.guest(fixed.least)), (fixed.least, 128 * MIB));
        assert_eq!(grows.limit(MIB), fixed.least);
        // A GiB more, its page tables (8 MiB), and what the guest's kernel keeps of it (16 MiB) and free (4 MiB).
        let limit = grows.limit((64 + 1024) * MIB);
        assert_eq!(limit, fixed.least + (1024 + 8 + 20) * MIB);
        assert_eq!(grows.given(limit), (64 + 1024) * MIB);
        assert_eq!(grows.guest(limit), (128 + 1024 + 20) * MIB);
        assert_eq!(grows.limit(u64::MAX), u64::MAX);
        assert!(grows.guest(u64::MAX) > u64::MAX / 2 && grows.guest(0) == 128 * MIB);
        assert_eq!((fixed.guest(limit), fixed.given(u64::MAX)), (0, u64::MAX - fixed.above_limit));
    }

    #[test]
    fn without_a_limit_there_is_still_an_overhead() {
        let overhead = overhead(-1, 512);
        assert_eq!(overhead, Overhead { above_limit: 132 * MIB, least: (512 + 132) * MIB, start: 0 });
    }
}
