//! The verdict that KVM is usable, kept for the rest of this boot.

use std::fs;
use std::path::{Path, PathBuf};

/// Changes when the check does.
const EDITION: &str = "1";

fn file(cache_dir: &Path) -> PathBuf {
    cache_dir.join("kvm-usable")
}

/// What the file says when it was written in this boot by this check.
fn verdict() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{EDITION} {boot}"))
}

/// Whether a good verdict of this boot is there.
pub fn is_good(cache_dir: &Path) -> bool {
    let Ok(kept) = fs::read_to_string(file(cache_dir)) else {
        return false;
    };
    verdict().is_some_and(|verdict| verdict == kept)
}

/// Keeps a good verdict. Several processes may do so at once: the file appears whole.
pub fn keep(cache_dir: &Path) {
    let Some(verdict) = verdict() else { return };
    let new = cache_dir.join(format!(".kvm-usable.{}", std::process::id()));
    if let Err(err) = fs::write(&new, verdict).and_then(|()| fs::rename(&new, file(cache_dir))) {
        log::debug!("cannot keep the verdict on KVM in {}: {err}", cache_dir.display());
        let _ = fs::remove_file(&new);
    }
}
