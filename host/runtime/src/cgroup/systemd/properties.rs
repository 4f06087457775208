//! Limits as properties of a unit: with these systemd keeps what is written to the files when it sets them anew.

use zbus::Variant;

use super::super::limits::{Setting, bytes};

/// A unit's property, by its name.
pub type Property<'a> = (&'a str, Variant<'static>);

/// No limit, and the default weight.
const NONE: u64 = u64::MAX;
/// systemd keeps a quota as a whole percentage of a CPU, this many microseconds in a second: what it keeps must not be
/// less than the file's.
const PERCENT: u64 = 10_000;
const SECOND: u64 = 1_000_000;
/// Of cpu.cfs_period_us and cpu.max.
const DEFAULT_PERIOD: u64 = 100_000;
/// Beyond any number of CPUs and of memory nodes that Linux knows.
const MOST_BITS: usize = 1 << 14;

/// The versions of systemd that came to know some of them. Others are older than any that counts.
const QUOTA_PERIOD_SINCE: u32 = 242;
const ALLOWED_SINCE: u32 = 244;
const IDLE_SINCE: u32 = 252;

/// Those of `settings` that this version of systemd knows.
pub fn of(settings: &[Setting], version: u32) -> Vec<Property<'static>> {
    let mut list: Vec<Property<'static>> = settings.iter().filter_map(|setting| simple(setting, version)).collect();
    let (quota, period) = settings.iter().fold((None, None), cpu_time);
    if let Some(period) = period.filter(|_| version >= QUOTA_PERIOD_SINCE) {
        list.push(("CPUQuotaPeriodUSec", period.into()));
    }
    if let Some(quota) = quota {
        list.push(("CPUQuotaPerSecUSec", per_second(quota, period.unwrap_or(DEFAULT_PERIOD)).into()));
    }
    list
}

fn simple(setting: &Setting, version: u32) -> Option<Property<'static>> {
    let value = setting.value.trim();
    let size = || if matches!(value, "max" | "-1") { Some(NONE) } else { bytes(value) };
    let number = || value.parse::<u64>().ok();
    let weight = || value.strip_prefix("default ").unwrap_or(value).trim().parse::<u64>().ok();
    let allowed = || bits(value).filter(|_| version >= ALLOWED_SINCE);
    Some(match setting.file.as_str() {
        "memory.max" => ("MemoryMax", size()?.into()),
        "memory.high" => ("MemoryHigh", size()?.into()),
        "memory.low" => ("MemoryLow", size()?.into()),
        "memory.min" => ("MemoryMin", size()?.into()),
        "memory.swap.max" => ("MemorySwapMax", size()?.into()),
        "memory.limit_in_bytes" => ("MemoryLimit", size()?.into()),
        "cpu.weight" => ("CPUWeight", number()?.into()),
        "cpu.idle" if version >= IDLE_SINCE => ("CPUWeight", if value == "1" { 0 } else { NONE }.into()),
        // The kernel takes others for the nearest of these, systemd does not.
        "cpu.shares" => ("CPUShares", number()?.clamp(2, 1 << 18).into()),
        "cpuset.cpus" => ("AllowedCPUs", allowed()?.into()),
        "cpuset.mems" => ("AllowedMemoryNodes", allowed()?.into()),
        "io.weight" => ("IOWeight", weight()?.into()),
        "io.bfq.weight" => ("IOWeight", for_bfq(weight()?)?.into()),
        "blkio.weight" | "blkio.bfq.weight" => ("BlockIOWeight", number()?.clamp(10, 1000).into()),
        _ => return None,
    })
}

/// systemd stretches BFQ's weights, of which 100 is the default as of the others and 1000 the highest, to 10000.
fn for_bfq(weight: u64) -> Option<u64> {
    match weight {
        1..=100 => Some(weight),
        101..=1000 => Some(100 + (weight - 100) * 11),
        _ => None,
    }
}

/// Quota and period, both of them in microseconds, as far as they are given.
fn cpu_time(before: (Option<u64>, Option<u64>), setting: &Setting) -> (Option<u64>, Option<u64>) {
    let mut words = setting.value.split_ascii_whitespace();
    let mut quota = || words.next().map(|word| word.parse().unwrap_or(NONE));
    match setting.file.as_str() {
        "cpu.cfs_quota_us" => (quota(), before.1),
        "cpu.cfs_period_us" => (before.0, setting.value.parse().ok()),
        "cpu.max" => (quota(), words.next().and_then(|word| word.parse().ok())),
        _ => before,
    }
}

fn per_second(quota: u64, period: u64) -> u64 {
    match (quota, period) {
        (NONE, _) | (_, 0) => NONE,
        _ => quota.saturating_mul(SECOND).div_ceil(period).checked_next_multiple_of(PERCENT).unwrap_or(NONE),
    }
}

/// A list such as `0-2,7` as a bit for each number, the lowest first. Other forms that the kernel takes are none of systemd's.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut set = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST_BITS {
            return None;
        }
        if set.len() <= last / 8 {
            set.resize(last / 8 + 1, 0u8);
        }
        for bit in first..=last {
            *set.get_mut(bit / 8)? |= 1 << (bit % 8);
        }
    }
    Some(set).filter(|set| !set.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(settings: &[(&str, &str)], version: u32) -> Vec<String> {
        let setting =
            |(file, value): &(&str, &str)| Setting { controller: "", file: (*file).into(), value: (*value).into() };
        let settings: Vec<Setting> = settings.iter().map(setting).collect();
        let value = |value: &Variant<'_>| match value {
            Variant::U64(NONE) => "none".to_owned(),
            Variant::U64(number) => number.to_string(),
            Variant::Array(array) => {
                format!("{:?}", array.iter().map(|v| v.downcast_ref().unwrap()).collect::<Vec<u8>>())
            }
            other => panic!("{other:?}"),
        };
        of(&settings, version).iter().map(|(name, v)| format!("{name}={}", value(v))).collect()
    }

    #[test]
    fn files_have_properties() {
        let v2 = [
            ("memory.max", "5000"),
            ("memory.high", "max"),
            ("memory.swap.max", "1M"),
            ("cpu.weight", "20"),
            ("cpu.max", "50000 200000"),
            ("io.weight", "default 4950"),
            ("io.weight", "8:0 7"),
            ("io.max", "8:0 rbps=1"),
            ("cpu.max.burst", "5"),
        ];
        let expected = [
            "MemoryMax=5000",
            "MemoryHigh=none",
            "MemorySwapMax=1048576",
            "CPUWeight=20",
            "IOWeight=4950",
            "CPUQuotaPeriodUSec=200000",
            "CPUQuotaPerSecUSec=250000",
        ];
        assert_eq!(shown(&v2, 252), expected);
        assert_eq!(shown(&[("io.bfq.weight", "default 500"), ("io.bfq.weight", "8:0 5")], 252), ["IOWeight=4500"]);
        let v1 =
            [("memory.limit_in_bytes", "-1"), ("cpu.shares", "1"), ("cpu.cfs_quota_us", "-1"), ("blkio.weight", "500")];
        assert_eq!(
            shown(&v1, 252),
            ["MemoryLimit=none", "CPUShares=2", "BlockIOWeight=500", "CPUQuotaPerSecUSec=none"]
        );
    }

    #[test]
    fn a_quota_is_never_kept_as_less() {
        for (quota, period, kept) in [(50_000, 100_000, 500_000), (1_001, 100_000, 20_000), (1, 1_000_000, 10_000)] {
            assert_eq!(per_second(quota, period), kept);
        }
        assert_eq!((per_second(5, 0), per_second(NONE, 7), per_second(NONE - 1, 1)), (NONE, NONE, NONE));
        assert_eq!(shown(&[("cpu.max", "max")], 252), ["CPUQuotaPerSecUSec=none"]);
        assert_eq!(shown(&[("cpu.cfs_period_us", "5000")], 252), ["CPUQuotaPeriodUSec=5000"]);
    }

    #[test]
    fn older_ones_know_less() {
        let settings = [("cpuset.cpus", "0"), ("cpu.idle", "1"), ("cpu.max", "1000 10000")];
        assert_eq!(shown(&settings, 239), ["CPUQuotaPerSecUSec=100000"]);
        let all = ["AllowedCPUs=[1]", "CPUWeight=0", "CPUQuotaPeriodUSec=10000", "CPUQuotaPerSecUSec=100000"];
        assert_eq!(shown(&settings, 252), all);
    }

    #[test]
    fn lists_are_bits() {
        assert_eq!(bits("0-2,7, 9"), Some(vec![0b1000_0111, 0b10]));
        assert_eq!(bits("15"), Some(vec![0, 0x80]));
        for none in ["", "x", "0-9:2/4", "99999", "1-"] {
            assert_eq!(bits(none), None, "{none}");
        }
    }
}
