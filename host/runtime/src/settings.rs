//! The administrator's settings: /etc/sandbox/config.toml. docs/config.md says what each key means.
//!
//! What is not in the file has its default; what the file has and nobody knows is refused, since a misspelt limit that is silently
//! ignored is no limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::error::{Plain, shown};
use crate::machine::{MEMORY_ANNOTATION, MINIMUM_MEMORY_MIB, MOST_MEMORY_MIB, MOST_VCPUS, VCPUS_ANNOTATION};
use crate::sys;

/// Environment variable: another file.
pub const VARIABLE: &str = "SANDBOX_CONFIG";
/// The file, if the variable names none. It need not exist.
pub const FILE: &str = "/etc/sandbox/config.toml";
/// Far more than all keys take.
const FILE_MAX: u64 = 1 << 20;
/// A known key this many edits away is what was meant.
const NEAREST_MAX: usize = 4;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings {}: {}", .path.display(), Plain(.source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}, line {line}, column {column}: {message}", .path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// How much the guest trusts what it has cached of the shared files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CachePolicy {
    /// Pages are dropped at each open.
    Auto,
    /// Pages are kept over opens, and dropped when size or time of change are seen to differ.
    #[default]
    Always,
    /// No pages are kept, and nothing that was looked up is trusted.
    Never,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What made the command fail.
    Error,
    /// And what has no effect.
    #[default]
    Warn,
    /// And what happens.
    Info,
    /// And why, as with `--debug`.
    Debug,
}

impl LogLevel {
    /// The same for the logger.
    pub fn filter(self) -> log::LevelFilter {
        match self {
            Self::Error => log::LevelFilter::Error,
            Self::Warn => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
        }
    }
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initramfs.
    pub initramfs: PathBuf,
    /// What is logged without `--debug`.
    pub log_level: LogLevel,
    /// The size of a micro-VM whose configuration says nothing.
    pub defaults: Defaults,
    /// The shared file system.
    pub share: ShareSettings,
    /// What a configuration's annotations may do.
    pub annotations: AnnotationSettings,
    /// What a configuration's `vm` section may do.
    pub vm: VmSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let directory = Path::new(crate::guest_files::DIRECTORY);
        Self {
            kernel: directory.join("vmlinux"),
            initramfs: directory.join("initramfs.cpio"),
            log_level: LogLevel::default(),
            defaults: Defaults::default(),
            share: ShareSettings::default(),
            annotations: AnnotationSettings::default(),
            vm: VmSettings::default(),
        }
    }
}

/// `[defaults]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Guest memory of a container without a memory limit, at its start.
    pub memory_mib: u64,
    /// What it may grow to; 0 for what the host has.
    pub memory_max_mib: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { vcpus: 1, memory_mib: 512, memory_max_mib: 0 }
    }
}

/// `[share]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShareSettings {
    /// What the guest may cache.
    pub cache: CachePolicy,
}

/// `[annotations]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnotationSettings {
    /// Those that override a setting.
    pub allowed: Vec<String>,
}

/// All annotations that there are.
const ANNOTATIONS: [&str; 2] = [MEMORY_ANNOTATION, VCPUS_ANNOTATION];

impl Default for AnnotationSettings {
    fn default() -> Self {
        Self { allowed: ANNOTATIONS.map(str::to_string).to_vec() }
    }
}

/// `[vm]`: a kernel is code that runs with the container's files before the container does, and its parameters can switch its
/// defences off. So none is taken from a configuration unless it is named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmSettings {
    /// Paths for vm.kernel.path.
    pub kernels: Vec<PathBuf>,
    /// Paths for vm.kernel.initrd.
    pub initrds: Vec<PathBuf>,
    /// Parameters for vm.kernel.parameters; one that ends with `=` stands for any value.
    pub parameters: Vec<String>,
}

impl Settings {
    /// Reads the file that the environment names, else the usual one, else takes the defaults.
    pub fn load() -> Result<Self, SettingsError> {
        match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(path) => Self::read(Path::new(&path)),
            None => match Self::read(Path::new(FILE)) {
                Err(SettingsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Ok(Self::default())
                }
                result => result,
            },
        }
    }

    /// Reads one file.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let failed = |source| SettingsError::Read { path: path.to_path_buf(), source };
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text)).map_err(failed)?;
        if text.len() as u64 > FILE_MAX {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        Self::from_text(&text, path)
    }

    /// Reads what stands in a file.
    pub(crate) fn from_text(text: &str, path: &Path) -> Result<Self, SettingsError> {
        Self::parse(text).map_err(|Mistake { at, message }| {
            let (line, column) = place(text, at);
            SettingsError::Content { path: path.to_path_buf(), line, column, message: shown(&message) }
        })
    }

    fn parse(text: &str) -> Result<Self, Mistake> {
        let table = DeTable::parse(text).map_err(Mistake::from)?;
        let known = serde_json::to_value(Self::default()).unwrap_or_default();
        check_keys(table.get_ref(), &known, "")?;
        let settings: Self = toml::from_str(text).map_err(Mistake::from)?;
        settings.check().map_err(|(section, key, message)| Mistake {
            at: find(table.get_ref(), section, key),
            message: format!(
                "{}{key}: {message}",
                if section.is_empty() { String::new() } else { format!("{section}.") }
            ),
        })?;
        Ok(settings)
    }

    /// What a micro-VM may grow to.
    pub fn most_memory_mib(&self) -> u64 {
        match self.defaults.memory_max_mib {
            0 => (sys::host_memory() >> 20).min(MOST_MEMORY_MIB),
            given => given,
        }
    }

    /// What types cannot say. An error names section and key.
    fn check(&self) -> Result<(), (&'static str, &'static str, String)> {
        for (key, path) in [("kernel", &self.kernel), ("initramfs", &self.initramfs)] {
            absolute(path).map_err(|message| ("", key, message))?;
        }
        if !(1..=MOST_VCPUS).contains(&self.defaults.vcpus) {
            return Err(("defaults", "vcpus", format!("give a number from 1 to {MOST_VCPUS}")));
        }
        if !(MINIMUM_MEMORY_MIB..=MOST_MEMORY_MIB).contains(&self.defaults.memory_mib) {
            let message = format!("give a number from {MINIMUM_MEMORY_MIB} to {MOST_MEMORY_MIB}");
            return Err(("defaults", "memory_mib", message));
        }
        let sizes = self.defaults.memory_mib..=MOST_MEMORY_MIB;
        if self.defaults.memory_max_mib != 0 && !sizes.contains(&self.defaults.memory_max_mib) {
            let message = format!("give 0 or a number from memory_mib, {}, to {MOST_MEMORY_MIB}", sizes.start());
            return Err(("defaults", "memory_max_mib", message));
        }
        for name in &self.annotations.allowed {
            if !ANNOTATIONS.contains(&name.as_str()) {
                return Err((
                    "annotations",
                    "allowed",
                    format!("unknown annotation {name}{}", meant(name, ANNOTATIONS)),
                ));
            }
        }
        for (key, paths) in [("kernels", &self.vm.kernels), ("initrds", &self.vm.initrds)] {
            paths.iter().try_for_each(|path| absolute(path)).map_err(|message| ("vm", key, message))?;
        }
        match self.vm.parameters.iter().find(|text| text.is_empty() || text.contains(char::is_whitespace)) {
            Some(text) => Err(("vm", "parameters", format!("{text:?} is not one kernel parameter"))),
            None => Ok(()),
        }
    }
}

fn absolute(path: &Path) -> Result<(), String> {
    if path.is_absolute() { Ok(()) } else { Err(format!("{path:?} is not an absolute path")) }
}

/// What is wrong, and at which byte.
struct Mistake {
    at: usize,
    message: String,
}

impl From<toml::de::Error> for Mistake {
    fn from(error: toml::de::Error) -> Self {
        Self { at: error.span().map_or(0, |span| span.start), message: error.message().to_string() }
    }
}

fn check_keys(table: &DeTable<'_>, known: &Value, section: &str) -> Result<(), Mistake> {
    let Some(known) = known.as_object() else { return Ok(()) };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        match (known.get(name), value.get_ref()) {
            (None, _) => {
                let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
                let message = format!("unknown key {name}{place}{}", meant(name, known.keys().map(String::as_str)));
                return Err(Mistake { at: key.span().start, message });
            }
            (Some(known), DeValue::Table(table)) => check_keys(table, known, name)?,
            // serde would take a list for it.
            (Some(known), _) if known.is_object() => {
                return Err(Mistake {
                    at: value.span().start,
                    message: format!("{name} is a section: write [{name}]"),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// `: did you mean …?` if a known name is near.
fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // A long name is nothing that was mistyped, and the distance takes the product of the lengths to find.
    let name = name.get(..name.len().min(100)).unwrap_or(name);
    let near = known.into_iter().map(|known| (strsim::osa_distance(name, known), known)).min();
    match near {
        Some((distance, known)) if distance <= NEAREST_MAX.min(known.len() / 2) => format!(": did you mean {known}?"),
        _ => String::new(),
    }
}

/// Where a key stands, or where its section would.
fn find(table: &DeTable<'_>, section: &str, key: &str) -> usize {
    let table = match table.get(section).map(|value| value.get_ref()) {
        Some(DeValue::Table(inner)) => inner,
        _ => table,
    };
    table.get(key).map_or(0, |value| value.span().start)
}

/// Line and column of a byte, from 1.
pub(crate) fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.get(start..).unwrap_or_default().chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}, ", path.display());
        Settings::read(&path).map_err(|error| error.to_string().strip_prefix(&prefix).unwrap().to_string())
    }

    #[test]
    fn everything_can_be_set() {
        let settings = read(concat!(
            "kernel = '/k'\ninitramfs = '/i'\nlog_level = 'debug'\n",
            "[defaults]\nvcpus = 2\nmemory_mib = 1024\nmemory_max_mib = 2048\n[share]\ncache = 'never'\n",
            "[annotations]\nallowed = ['io.sandbox.vcpus']\n",
            "[vm]\nkernels = ['/a']\ninitrds = ['/b']\nparameters = ['quiet', 'loglevel=']\n"
        ))
        .unwrap();
        assert_eq!((settings.kernel, settings.initramfs), (PathBuf::from("/k"), PathBuf::from("/i")));
        assert_eq!(settings.log_level.filter(), log::LevelFilter::Debug);
        assert_eq!(settings.defaults, Defaults { vcpus: 2, memory_mib: 1024, memory_max_mib: 2048 });
        assert_eq!(settings.share.cache, CachePolicy::Never);
        assert_eq!(settings.annotations.allowed, ["io.sandbox.vcpus"]);
        assert_eq!(settings.vm.kernels, [PathBuf::from("/a")]);
        assert_eq!(settings.vm.parameters, ["quiet", "loglevel="]);
        assert_eq!(read("").unwrap(), Settings::default());
        assert_eq!(read("# nothing\n[vm]\n").unwrap(), Settings::default());
    }

    #[test]
    fn mistakes_are_named_where_they_are() {
        for (text, expected) in [
            (
                "[defaults]\nmemory_mb = 1",
                "line 2, column 1: unknown key memory_mb in [defaults]: did you mean memory_mib?",
            ),
            ("[default]\n", "line 1, column 2: unknown key default: did you mean defaults?"),
            ("kernal = 1", "line 1, column 1: unknown key kernal: did you mean kernel?"),
            ("vcpus = 1", "line 1, column 1: unknown key vcpus"),
            ("[share]\ncolour = 1", "line 2, column 1: unknown key colour in [share]"),
            ("\n[defaults]\nvcpus = 'two'", "line 3, column 9: invalid type: string \"two\", expected u8"),
            ("[defaults]\nvcpus = 0", "line 2, column 9: defaults.vcpus: give a number from 1 to 32"),
            ("[defaults]\nvcpus = 33", "line 2, column 9: defaults.vcpus: give a number from 1 to 32"),
            ("[defaults]\nvcpus = 256", "line 2, column 9: invalid value: integer `256`, expected u8"),
            ("[defaults]\nmemory_mib = 63", "line 2, column 14: defaults.memory_mib: give a number from 64 to 1048576"),
            (
                "[defaults]\nmemory_max_mib = 511",
                "line 2, column 18: defaults.memory_max_mib: give 0 or a number from memory_mib, 512, to 1048576",
            ),
            ("kernel = 'vmlinux'", "line 1, column 10: kernel: \"vmlinux\" is not an absolute path"),
            ("[vm]\ninitrds = ['/a', 'b']", "line 2, column 11: vm.initrds: \"b\" is not an absolute path"),
            ("[vm]\nparameters = ['a b']", "line 2, column 14: vm.parameters: \"a b\" is not one kernel parameter"),
            (
                "[annotations]\nallowed = ['io.sandbox.cpus']",
                "line 2, column 11: annotations.allowed: unknown annotation io.sandbox.cpus: did you mean io.sandbox.vcpus?",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
        let text = read("[share]\ncache = 'sometimes'").unwrap_err();
        assert!(text.starts_with("line 2, column 9: unknown variant `sometimes`, expected one of"), "{text}");
        for text in ["[defaults", "a = \n", "defaults = 1", "[[vm]]\n", "vm = []", "kernel = '/a'\nkernel = '/b'"] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("line ") && !error.contains('\n'), "{error}");
        }
        assert!(read(&format!("{} = 1", "k".repeat(500_000))).is_err());
    }

    #[test]
    fn the_file_itself() {
        let text = Settings::read(Path::new("/nonexistent/c")).unwrap_err().to_string();
        assert_eq!(text, "cannot read the settings /nonexistent/c: no such file or directory");
        let directory = tempfile::tempdir().unwrap();
        assert!(Settings::read(directory.path()).unwrap_err().to_string().ends_with(": is a directory"));
        let large = directory.path().join("large");
        std::fs::write(&large, " ".repeat(2 << 20)).unwrap();
        assert!(Settings::read(&large).unwrap_err().to_string().contains("too large"));
    }

    /// docs/config.md: a table row `| \`section.key\` | \`default\` | …` for each key, and no other.
    #[test]
    fn documented_defaults_are_the_defaults() {
        let document = include_str!("../../../docs/config.md");
        let mut rows = std::collections::BTreeMap::new();
        for line in document.lines() {
            let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`'));
            if let (Some(""), Some(key), Some(value)) = (cells.next(), cells.next(), cells.next()) {
                rows.insert(key.to_string(), value.to_string());
            }
        }
        rows.retain(|key, _| !key.starts_with('-') && key != "key");
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        let mut expected = std::collections::BTreeMap::new();
        for (key, value) in defaults.as_object().unwrap() {
            match value.as_object() {
                Some(section) => {
                    expected.extend(section.iter().map(|(inner, value)| (format!("{key}.{inner}"), written(value))))
                }
                None => drop(expected.insert(key.clone(), written(value))),
            }
        }
        assert_eq!(rows, expected);
    }

    fn written(value: &Value) -> String {
        match value {
            Value::Array(list) => format!("[{}]", list.iter().map(written).collect::<Vec<_>>().join(", ")),
            value => value.to_string(),
        }
    }
}
