//! What the guest's cgroups and the host's share: from cgroup v1's scales, in which the specification speaks, to those of
//! v2, and from systemd's names to directories.

use std::path::PathBuf;

/// cpu.shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100), linear as in runc.
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// blkio.weight (10 to 1000) as io.weight (1 to 10000).
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// A limit, where -1 means none.
pub fn limit(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// memory.swap.max from OCI's limits of memory, and of memory and swap together.
pub fn swap(memory: Option<i64>, both: i64) -> Result<Option<String>, &'static str> {
    let memory = memory.unwrap_or(0);
    match (memory, both) {
        // Where cgroup v1 gives no limit for memory, none for both is meant.
        (-1, 0) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (_, -1) => Ok(Some("max".to_owned())),
        // Without a limit for memory there is nothing to take off: as runc since 1.2.1.
        (-1, swap @ 1..) => Ok(Some(swap.to_string())),
        (-1 | 0, _) => Err("unable to set swap limit without memory limit"),
        (..-1, _) => Err("the limit for memory is negative"),
        (memory, both) if both < memory => Err("memory+swap limit should be >= memory limit"),
        (memory, both) => Ok(Some((both - memory).to_string())),
    }
}

/// What an update makes of cpu.max, which holds two limits and says `now`: the half that is left out stays.
pub fn cpu_max(quota: Option<i64>, period: Option<u64>, now: &str) -> (Option<i64>, Option<u64>) {
    let (now_quota, now_period) = now.trim_end().split_once(' ').unwrap_or_default();
    match (quota.filter(|quota| *quota != 0), period.filter(|period| *period != 0)) {
        (Some(quota), None) => (Some(quota), now_period.parse().ok()),
        (None, Some(period)) => (now_quota.parse().ok(), Some(period)),
        both => both,
    }
}

/// The directory of systemd's unit `prefix-name.scope` in a slice. A slice's name holds its ancestors: `a-b.slice` lies in
/// `a.slice`.
pub fn systemd_path(slice: &str, prefix: &str, name: &str) -> Result<PathBuf, &'static str> {
    let stem = slice.strip_suffix(".slice").ok_or("its first part must end in `.slice`")?;
    if [slice, prefix, name].iter().any(|part| part.contains('/')) {
        return Err("a name of systemd's cannot contain `/`");
    }
    if name.is_empty() {
        return Err("its last part, the name, is empty");
    }
    let mut path = PathBuf::new();
    if stem != "-" {
        let parts: Vec<&str> = stem.split('-').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err("its slice has an empty part");
        }
        path.extend((1..=parts.len()).map(|end| format!("{}.slice", parts[..end].join("-"))));
    }
    path.push(if name.ends_with(".slice") { name.to_owned() } else { format!("{prefix}-{name}.scope") });
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_hold_their_ancestors() {
        let path = |slice, prefix, name| systemd_path(slice, prefix, name).map(|p| p.display().to_string());
        assert_eq!(path("system.slice", "docker", "abc").unwrap(), "system.slice/docker-abc.scope");
        assert_eq!(path("a-b-c.slice", "", "x").unwrap(), "a.slice/a-b.slice/a-b-c.slice/-x.scope");
        assert_eq!(path("-.slice", "p", "x").unwrap(), "p-x.scope");
        assert_eq!(path("a.slice", "p", "x.slice").unwrap(), "a.slice/x.slice");
        for (slice, prefix, name) in [
            ("nonsense", "p", "x"),
            ("a--b.slice", "p", "x"),
            (".slice", "p", "x"),
            ("a.slice", "p", ""),
            ("a.slice", "../p", "x"),
        ] {
            assert!(path(slice, prefix, name).is_err(), "{slice}:{prefix}:{name}");
        }
    }

    #[test]
    fn shares_span_the_weights() {
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(1024), 39);
        assert_eq!(cpu_weight(262_144), 10_000);
        assert_eq!(cpu_weight(u64::MAX), 10_000);
        assert_eq!(cpu_weight(0), 1);
    }

    #[test]
    fn io_weights_span() {
        assert_eq!(io_weight(10), 1);
        assert_eq!(io_weight(1000), 10_000);
        assert_eq!(io_weight(500), 4950);
    }

    #[test]
    fn swap_excludes_memory() {
        assert_eq!(swap(Some(100), 150).unwrap().unwrap(), "50");
        assert_eq!(swap(Some(100), 100).unwrap().unwrap(), "0");
        assert_eq!(swap(Some(100), -1).unwrap().unwrap(), "max");
        assert_eq!(swap(Some(100), 0).unwrap(), None);
        assert_eq!(swap(Some(-1), 0).unwrap().unwrap(), "max");
        assert_eq!(swap(Some(-1), 100).unwrap().unwrap(), "100");
        assert!(swap(None, 100).is_err() && swap(Some(-1), -2).is_err());
        assert!(swap(Some(i64::MIN), 100).is_err());
        assert!(swap(Some(100), 99).is_err());
        assert_eq!(limit(-1), "max");
        assert_eq!(limit(0), "0");
    }
}
