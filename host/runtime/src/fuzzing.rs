//! What the text of a configuration can reach before anything is made of it, for the fuzz targets `config` and `settings`.

use std::path::Path;

use crate::bundle::Bundle;
use crate::cgroup::{self, Overhead};
use crate::machine::Machine;
use crate::proxy::protocol::Network;
use crate::settings::Settings;
use crate::share;

/// Takes a config.json. `bundle` is a directory with a directory `rootfs` in it.
pub fn config(text: &[u8], bundle: &Path) {
    let settings = Settings::default();
    let bundle = match Bundle::parse(bundle.to_path_buf(), text, &settings) {
        Ok(bundle) => bundle,
        Err(error) => return one_line(&error.to_string()),
    };
    Network::of(&bundle.spec);
    bundle.wants_terminal();
    match Machine::configured(&bundle.spec, &settings) {
        Ok(machine) => cgroup::check(&bundle.spec, Overhead::of(&bundle.spec, &machine)),
        Err(error) => one_line(&error.to_string()),
    }
    if let Err(error) = share::plan(&bundle.spec, &bundle.directory, "box") {
        one_line(&error.to_string());
    }
}

/// Takes the text of a settings file.
pub fn settings(text: &str) {
    if let Err(error) = Settings::from_text(text, Path::new("/config.toml")) {
        one_line(&error.to_string());
    }
}

/// A sentence shows where the mistake is; it cannot fill the terminal, or command it.
fn one_line(sentence: &str) {
    assert!(!sentence.is_empty() && sentence.len() < 20_000 && !sentence.contains(char::is_control), "{sentence:?}");
}
