//! What a cgroup uses, in the shape of runc's statistics of cgroup v2.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent_protocol::stats::{Blkio, BlkioEntry, Cpu, Hugetlb, Memory, MemoryEntry, Pids, Psi, PsiShare, Stats};

/// What the kernel shows of the cgroup; a file that is not there counts as empty.
pub fn read(cgroup: &Path) -> Stats {
    let text = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    Stats {
        cpu: cpu(&text("cpu.stat"), psi(&text("cpu.pressure"))),
        memory: memory(&text),
        pids: Pids { current: number(&text("pids.current")), limit: number_or(&text("pids.max"), 0) },
        blkio: blkio(&text("io.stat")),
        hugetlb: hugetlb(cgroup),
        ..Stats::default()
    }
}

fn number(text: &str) -> u64 {
    number_or(text, 0)
}

/// `max`, and a file that is not there, are `otherwise`.
fn number_or(text: &str, otherwise: u64) -> u64 {
    text.trim_end().parse().unwrap_or(otherwise)
}

/// Lines of a name and a number.
fn flat(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| line.split_once(' ').and_then(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

fn cpu(stat: &str, psi: Option<Psi>) -> Cpu {
    let stat = flat(stat);
    let get = |key: &str| stat.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| get(key).saturating_mul(1000);
    let mut cpu = Cpu { psi, ..Cpu::default() };
    cpu.usage.total = nanoseconds("usage_usec");
    cpu.usage.user = nanoseconds("user_usec");
    cpu.usage.kernel = nanoseconds("system_usec");
    cpu.throttling.periods = get("nr_periods");
    cpu.throttling.throttled_periods = get("nr_throttled");
    cpu.throttling.throttled_time = nanoseconds("throttled_usec");
    cpu
}

fn memory(text: &impl Fn(&str) -> String) -> Memory {
    let raw = flat(&text("memory.stat"));
    let get = |key: &str| raw.get(key).copied().unwrap_or(0);
    let entry = |name: &str, event: &str| MemoryEntry {
        usage: number(&text(&format!("{name}.current"))),
        limit: number_or(&text(&format!("{name}.max")), u64::MAX),
        max: number(&text(&format!("{name}.peak"))),
        failcnt: flat(&text(&format!("{name}.events"))).get(event).copied().unwrap_or(0),
    };
    let usage = entry("memory", "max");
    let only_swap = entry("memory.swap", "max");
    // As in cgroup v1, this one is of memory and swap together.
    let swap = MemoryEntry {
        usage: usage.usage.saturating_add(only_swap.usage),
        limit: match only_swap.limit {
            u64::MAX => u64::MAX,
            limit => limit.saturating_add(usage.limit),
        },
        max: 0,
        failcnt: only_swap.failcnt,
    };
    let kernel = MemoryEntry { usage: get("kernel_stack") + get("slab") + get("pagetables"), ..MemoryEntry::default() };
    let kernel_tcp = MemoryEntry { usage: get("sock"), ..MemoryEntry::default() };
    let psi = psi(&text("memory.pressure"));
    Memory { cache: get("file"), usage, swap, kernel, kernel_tcp, raw, psi }
}

fn blkio(stat: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let device = words.next().and_then(|d| d.split_once(':'));
        let Some((major, minor)) = device.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value: number(value) });
        }
    }
    blkio
}

fn hugetlb(cgroup: &Path) -> BTreeMap<String, Hugetlb> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(size) = name.strip_prefix("hugetlb.").and_then(|n| n.strip_suffix(".current")) else { continue };
        let text = |file: &str| fs::read_to_string(cgroup.join(format!("hugetlb.{size}.{file}"))).unwrap_or_default();
        if size.contains('.') {
            continue; // of reservations
        }
        let failcnt = flat(&text("events")).get("max").copied().unwrap_or(0);
        sizes.insert(size.to_owned(), Hugetlb { usage: number(&text("current")), max: 0, failcnt });
    }
    sizes
}

fn psi(text: &str) -> Option<Psi> {
    let share = |name: &str| {
        let words = text.lines().find_map(|line| line.strip_prefix(name))?;
        let get = |key: &str| words.split_ascii_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        let average = |key| get(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        Some(PsiShare {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: get("total").map_or(0, number),
        })
    };
    Some(Psi { some: share("some")?, full: share("full").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_statistics() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            ),
            ("memory.current", "100\n"),
            ("memory.max", "1000\n"),
            ("memory.peak", "500\n"),
            ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\n"),
            ("memory.stat", "anon 1\nfile 20\nkernel_stack 3\nslab 4\npagetables 5\nsock 6\n"),
            ("memory.swap.current", "50\n"),
            ("memory.swap.max", "200\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n"),
            ("hugetlb.2MB.current", "4096\n"),
            ("hugetlb.2MB.events", "max 2\n"),
            ("hugetlb.2MB.rsvd.current", "1\n"),
        ];
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let stats = read(dir.path());
        assert_eq!((stats.cpu.usage.total, stats.cpu.usage.kernel), (30_000, 10_000));
        assert_eq!((stats.cpu.throttling.periods, stats.cpu.throttling.throttled_time), (4, 7_000));
        assert_eq!(stats.cpu.psi.as_ref().map(|p| (p.some.avg10, p.full.total)), Some((1.5, 3)));
        let memory = MemoryEntry { usage: 100, limit: 1000, max: 500, failcnt: 6 };
        assert_eq!(stats.memory.usage, memory);
        assert_eq!((stats.memory.swap.usage, stats.memory.swap.limit), (150, 1200));
        assert_eq!((stats.memory.cache, stats.memory.kernel.usage, stats.memory.kernel_tcp.usage), (20, 12, 6));
        assert_eq!((stats.pids.current, stats.pids.limit), (3, 0));
        assert_eq!((stats.blkio.io_service_bytes_recursive.len(), stats.blkio.io_serviced_recursive[1].value), (2, 4));
        assert_eq!(
            stats.hugetlb.into_iter().map(|(k, v)| (k, v.usage, v.failcnt)).collect::<Vec<_>>(),
            [("2MB".to_owned(), 4096, 2)]
        );
    }

    #[test]
    fn an_empty_cgroup_has_no_limits() {
        let dir = tempfile::tempdir().unwrap();
        let stats = read(dir.path());
        assert_eq!((stats.memory.usage.limit, stats.memory.swap.limit), (u64::MAX, u64::MAX));
        assert!(stats.cpu.psi.is_none() && stats.hugetlb.is_empty());
    }
}
