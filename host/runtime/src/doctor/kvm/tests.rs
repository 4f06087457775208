//! These use the machine's real KVM, of whichever kind it is.

use std::time::Instant;

use super::*;

/// Whether KVM here is backed by hardware (or by the lab's), as the processor's flags say it. `None` without KVM.
fn machine() -> Option<(File, bool)> {
    match open() {
        Ok(device) => Some((device, processor_has_virtualization())),
        Err(err) => {
            println!("skipped: {err}");
            None
        }
    }
}

#[test]
fn verdict_is_right_and_quick() {
    let Some((device, backed)) = machine() else { return };
    let directory = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let result = ensure_usable(&device, directory.path());
    let mut first = started.elapsed();
    // Beside other programs one look can take as long as they let it: the quickest of three counts.
    for _ in 0..2 {
        let another = tempfile::tempdir().unwrap();
        let started = Instant::now();
        assert_eq!(ensure_usable(&device, another.path()).is_ok(), result.is_ok());
        first = first.min(started.elapsed());
    }
    assert!(first < Duration::from_secs(1), "{first:?}");
    let kept = directory.path().join("kvm-usable").exists();
    if !backed {
        let err = result.unwrap_err();
        assert!(matches!(err, KvmError::Slow { .. } | KvmError::Instruction { .. }), "{err}");
        assert!(err.to_string().contains("use a machine with VT-x or AMD-V"), "{err}");
        assert!(!kept, "a bad verdict is not kept");
        println!("{err} (after {first:?})");
        return;
    }
    result.unwrap();
    assert!(kept);
    let started = Instant::now();
    ensure_usable(&device, directory.path()).unwrap();
    println!("first {first:?}, then {:?}", started.elapsed());
    assert!(started.elapsed() < first.max(Duration::from_millis(1)));
}

#[test]
fn a_device_that_is_not_kvm() {
    let directory = tempfile::tempdir().unwrap();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let err = ensure_usable(&null, directory.path()).unwrap_err();
    assert!(matches!(err, KvmError::ApiVersion(-1)), "{err}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_hanging_guest_is_given_up() {
    let Some((device, _)) = machine() else { return };
    let started = Instant::now();
    for (instructions, patience) in [(u64::MAX, Duration::from_millis(100)), (20_000, Duration::ZERO)] {
        let result = probe::run(interface(&device).unwrap(), instructions, patience);
        assert!(matches!(result, Err(KvmError::Hangs)), "{result:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn verdicts_of_other_boots_do_not_count() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!cache::is_good(directory.path()));
    cache::keep(directory.path());
    assert!(cache::is_good(directory.path()));
    for other in ["1 00000000-0000-0000-0000-000000000000\n", "", "1"] {
        std::fs::write(directory.path().join("kvm-usable"), other).unwrap();
        assert!(!cache::is_good(directory.path()));
    }
    cache::keep(Path::new("/nonexistent"));
}
