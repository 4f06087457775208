//! From a file to a [`Spec`]: everything that holds for any field.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, error::Category};

use super::any_case::{self, AnyCase, field};
use super::{BundleError, brief, invalid};

/// No more is read. A large configuration has some hundred kilobytes.
const READ_MAX: usize = 16 << 20;
/// No more is accepted: the guest's agent takes messages of 4 MiB.
const SIZE_MAX: usize = 3 << 20;
/// From here on the lengths of lists and strings are looked at before anything else; below they are harmless.
const SMALL: usize = 256 << 10;
/// execve(2) takes no longer string, and nothing else needs one.
const STRING_MAX: usize = 128 << 10;
/// The kernel takes so many groups (NGROUPS_MAX); no other list is longer.
const LIST_MAX: usize = 65_536;

/// Reads a config.json.
pub fn read(path: &Path) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::Read { path: path.to_path_buf(), source };
    // A FIFO would keep the command waiting for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(unusable(path, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(READ_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > READ_MAX {
        return Err(unusable(path, "larger than 16 MiB, which no configuration is"));
    }
    Ok(text)
}

fn unusable(path: &Path, reason: &'static str) -> BundleError {
    BundleError::Unusable { path: path.to_path_buf(), reason }
}

/// What the text says.
pub fn spec(path: &Path, text: &[u8]) -> Result<Spec, BundleError> {
    // The one escape by which a NUL gets into a string.
    if text.len() > SMALL || text.windows(6).any(|six| six == b"\\u0000") {
        let value: Value = serde_json::from_slice(text).map_err(|error| json_error(path, None, &error))?;
        bounded(&value, &mut Vec::new())?;
    }
    let spec = match any_case::from_slice(text) {
        Ok(spec) => spec,
        Err(error) if error.classify() == Category::Data => with_repairs(path, text)?,
        Err(error) => return Err(json_error(path, None, &error)),
    };
    if text.len() > SIZE_MAX {
        return Err(unusable(path, "larger than 3 MiB, which the guest's agent does not take"));
    }
    Ok(spec)
}

fn json_error(path: &Path, field: Option<&str>, error: &serde_json::Error) -> BundleError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let reason = brief(text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text));
    let message = match field {
        Some(field) => format!("{field}: {reason}"),
        None => reason,
    };
    BundleError::Json { path: path.to_path_buf(), line, column, message }
}

/// What other runtimes take and the types do not is put right. If there is nothing of that kind, the error names its field.
fn with_repairs(path: &Path, text: &[u8]) -> Result<Spec, BundleError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let error = match serde_path_to_error::deserialize(AnyCase::new(&mut json)) {
        Ok(spec) => return Ok(spec),
        Err(error) => error,
    };
    let place = error.path().to_string();
    let located = json_error(path, Some(brief(&place).as_str()).filter(|place| *place != "."), error.inner());
    let Ok(mut value) = serde_json::from_slice::<Value>(text) else { return Err(located) };
    if !repair(&mut value) {
        return Err(located);
    }
    let result: Result<Spec, _> = serde_path_to_error::deserialize(AnyCase::new(value));
    // Of two mistakes the one that was not repaired; it has no line here.
    result.map_err(|error| match error.path().to_string() {
        again if again == place => located,
        other => invalid(brief(&other), brief(&error.inner().to_string())),
    })
}

fn repair(config: &mut Value) -> bool {
    config.as_object_mut().and_then(|config| field(config, "process")).is_some_and(repair_process)
}

/// Puts right what other runtimes take of an OCI process; says whether there was anything.
pub fn repair_process(process: &mut Value) -> bool {
    let Some(process) = process.as_object_mut() else { return false };
    let root = || serde_json::json!({"uid": 0, "gid": 0});
    let mut repaired = true;
    match field(process, "user") {
        Some(user) if user.is_null() => *user = root(),
        Some(_) => repaired = false,
        None => drop(process.insert("user".to_string(), root())),
    }
    for set in field(process, "capabilities").and_then(Value::as_object_mut).into_iter().flatten() {
        repaired |= drop_unknown_capabilities(set.0, set.1);
    }
    repaired
}

/// The specification has a runtime warn of capabilities that it cannot grant, and go on.
fn drop_unknown_capabilities(set: &str, list: &mut Value) -> bool {
    let Some(list) = list.as_array_mut() else { return false };
    let before = list.len();
    list.retain(|name| {
        let known = !name.is_string() || serde_json::from_value::<Capability>(name.clone()).is_ok();
        if !known {
            log::warn!(
                "process.capabilities.{}: ignoring unknown capability {}",
                brief(set),
                brief(name.as_str().unwrap_or_default())
            );
        }
        known
    });
    list.len() != before
}

/// One step of a field's path.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn name(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(&brief(key)),
            Step::Key(key) => text.push_str(&format!(".{}", brief(key))),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// No NUL, no list and no string without end. Annotations are for others to read and may be longer.
fn bounded<'a>(value: &'a Value, path: &mut Vec<Step<'a>>) -> Result<(), BundleError> {
    match value {
        Value::String(text) if text.contains('\0') => {
            Err(invalid(name(path), "a NUL character cannot be passed to the kernel"))
        }
        Value::String(text) if text.len() >= STRING_MAX && !matches!(path.first(), Some(Step::Key("annotations"))) => {
            Err(invalid(name(path), "argument list too long: a string may have 131071 bytes"))
        }
        Value::Array(list) if list.len() > LIST_MAX => {
            Err(invalid(name(path), format!("{} entries, and {LIST_MAX} are possible", list.len())))
        }
        Value::Array(list) => list.iter().enumerate().try_for_each(|(index, value)| {
            path.push(Step::Index(index));
            bounded(value, path)?;
            path.pop();
            Ok(())
        }),
        Value::Object(map) if map.len() > LIST_MAX => {
            Err(invalid(name(path), format!("{} entries, and {LIST_MAX} are possible", map.len())))
        }
        Value::Object(map) => map.iter().try_for_each(|(key, value)| {
            path.push(Step::Key(key));
            if key.contains('\0') {
                return Err(invalid(name(path), "a NUL character cannot be passed to the kernel"));
            }
            bounded(value, path)?;
            path.pop();
            Ok(())
        }),
        _ => Ok(()),
    }
}
