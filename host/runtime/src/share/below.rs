//! How a bind mount with other mounts below its source is shared. The guest sees those as mounts of their own, which appear when somebody
//! goes there and take over what holds for the one above. A read-only mount whose lower ones stay writable is therefore one for
//! which the agent goes there first.

use std::path::{Path, PathBuf};

use agent_protocol::BELOW_OPTION;
use oci_spec::runtime::Mount;

use super::options;
use crate::control::ReadOnly;
use crate::mountinfo;

/// Whether what is mounted below the source is part of the mount.
pub fn is_recursive(mount: &Mount) -> bool {
    options(mount).any(|option| option == "rbind")
}

/// How far down the mount is read-only. The last word wins, as in mount(8).
pub fn read_only(mount: &Mount) -> ReadOnly {
    let last = |words: [&str; 2]| options(mount).rfind(|option| words.contains(option));
    match (last(["rro", "rrw"]), last(["ro", "rw"])) {
        (Some("rro"), _) => ReadOnly::All,
        (None, Some("ro")) => ReadOnly::Top,
        _ => ReadOnly::Nowhere,
    }
}

/// Tells the agent where it has to go.
pub fn tell(mount: &mut Mount, source: &Path) {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let more: Vec<_> = writable_below(&text, source)
        .iter()
        .filter_map(|path| path.to_str())
        .map(|path| format!("{BELOW_OPTION}{path}"))
        .collect();
    if !more.is_empty() {
        let given = mount.options().iter().flatten().cloned();
        let all = given.chain(more).collect();
        mount.set_options(Some(all));
    }
}

/// The mounts below `source` that are not read-only, relative to it, an upper one before those below it.
fn writable_below(mountinfo: &str, source: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = mountinfo
        .lines()
        .filter_map(mountinfo::parse)
        .filter(|entry| !entry.options.split(',').any(|option| option == "ro"))
        .filter_map(|entry| Some(entry.mount_point.strip_prefix(source).ok()?.to_owned()))
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(options: &[&str]) -> Mount {
        serde_json::from_value(json!({"destination": "/d", "type": "bind", "source": "/s", "options": options}))
            .unwrap()
    }

    #[test]
    fn the_last_word_counts() {
        for (options, want) in [
            (&["rbind"][..], ReadOnly::Nowhere),
            (&["rbind", "ro"], ReadOnly::Top),
            (&["rbind", "ro", "rw"], ReadOnly::Nowhere),
            (&["rbind", "rro"], ReadOnly::All),
            (&["rbind", "rro", "rw"], ReadOnly::All),
            (&["rbind", "ro", "rrw"], ReadOnly::Nowhere),
        ] {
            assert_eq!(read_only(&mount(options)), want, "{options:?}");
        }
        assert!(is_recursive(&mount(&["bind", "rbind"])) && !is_recursive(&mount(&["bind"])));
    }

    #[test]
    fn only_writable_mounts_below_the_source_are_named() {
        let line = |point: &str, options: &str| format!("1 2 0:1 / {point} {options} shared:1 - tmpfs tmpfs rw\n");
        let text = [
            line("/s", "rw"),
            line("/s/b/c", "rw,nosuid"),
            line("/s/b", "rw"),
            line("/s/ro", "ro,nosuid"),
            line("/s/b", "rw"),
            line("/sibling", "rw"),
        ]
        .concat();
        assert_eq!(writable_below(&text, Path::new("/s")), [Path::new("b"), Path::new("b/c")]);
        assert!(writable_below(&text, Path::new("/s/b/c")).is_empty());
    }
}
