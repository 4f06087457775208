//! Bundles' configurations: whatever the text, there is a plan for a container, or a sentence that says what is wrong with it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static BUNDLE: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = TempDir::new().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("rootfs")).expect("a directory");
    directory
});

fuzz_target!(|text: &[u8]| sandbox::fuzzing::config(text, BUNDLE.path()));
