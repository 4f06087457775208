//! docker's daemon.json: `{"runtimes": {NAME: {"path": …}}}`. What else is in the file keeps its bytes.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstObjectProp, CstRootNode};
use serde_json::Value;

use super::engine::{Change, is_ours};
use super::error::Refusal;

const RUNTIMES: &str = "runtimes";
const PATH: &str = "path";
/// The setting that names the runtime of containers whose caller names none.
const DEFAULT: &str = "default-runtime";

/// The text with the runtime.
pub(super) fn add(text: &str, name: &str, program: &str) -> Result<Change, Refusal> {
    let document = parse(text)?;
    let root = expected(document.object_value(), "the file")?;
    let runtimes = expected(root.object_value_or_create(RUNTIMES), RUNTIMES)?;
    let Some(entry) = runtimes.get(name) else {
        runtimes.append(name, CstInputValue::Object(vec![(PATH.to_string(), program.into())]));
        return Ok(Change::Added(document.to_string()));
    };
    match entry.object_value().and_then(|entry| entry.get(PATH)) {
        Some(path) if text_of(&path).is_some_and(|path| path == program) => Ok(Change::Present),
        Some(path) if text_of(&path).is_some_and(|path| is_ours(&path)) => {
            path.set_value(program.into());
            Ok(Change::Updated(document.to_string()))
        }
        _ => Err(Refusal::Foreign { name: name.to_string(), program: described(&entry) }),
    }
}

/// The text without the runtime, and without what was made for it.
pub(super) fn remove(text: &str, before: Option<&str>, name: &str) -> Result<Change, Refusal> {
    let document = parse(text)?;
    let root = expected(document.object_value(), "the file")?;
    let Some(runtimes) = root.get(RUNTIMES) else { return Ok(Change::Absent) };
    let Some(entry) = expected(runtimes.object_value(), RUNTIMES)?.get(name) else { return Ok(Change::Absent) };
    if !property(&entry, PATH).is_some_and(|path| is_ours(&path)) {
        return Ok(Change::NotOurs(described(&entry)));
    }
    if root.get(DEFAULT).and_then(|default| text_of(&default)).is_some_and(|default| default == name) {
        return Err(Refusal::Default { field: DEFAULT, name: name.to_string() });
    }
    entry.remove();
    let value_before = before.map(|text| value(text).unwrap_or_default());
    let made_here = value_before.as_ref().is_none_or(|value| value.get(RUNTIMES).is_none());
    if made_here && runtimes.object_value().is_some_and(|runtimes| runtimes.properties().is_empty()) {
        runtimes.remove();
    }
    let text = document.to_string();
    Ok(match before {
        None if root.properties().is_empty() => Change::FileRemoved,
        // Spaces and line ends included.
        Some(before) if value(&text).ok() == value_before => Change::TakenOut(before.to_string()),
        _ => Change::TakenOut(text),
    })
}

/// For editing; an empty file counts as an empty object.
fn parse(text: &str) -> Result<CstRootNode, Refusal> {
    // The other parser knows more than JSON, which docker does not read.
    value(text)?;
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    CstRootNode::parse(text, &ParseOptions::default()).map_err(|error| Refusal::Syntax {
        line: error.line_display(),
        column: error.column_display(),
        message: error.kind().to_string(),
    })
}

fn value(text: &str) -> Result<Value, Refusal> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).map_err(|error| {
        let place = format!(" at line {} column {}", error.line(), error.column());
        Refusal::Syntax {
            line: error.line(),
            column: error.column(),
            message: error.to_string().trim_end_matches(&place).to_string(),
        }
    })
}

fn expected(object: Option<CstObject>, field: &str) -> Result<CstObject, Refusal> {
    object.ok_or_else(|| Refusal::Type { field: field.to_string(), expected: "an object" })
}

fn text_of(property: &CstObjectProp) -> Option<String> {
    property.value()?.as_string_lit()?.decoded_value().ok()
}

fn property(entry: &CstObjectProp, name: &str) -> Option<String> {
    text_of(&entry.object_value()?.get(name)?)
}

/// What a runtime is, in a word.
fn described(entry: &CstObjectProp) -> String {
    property(entry, PATH).or_else(|| property(entry, "runtimeType")).unwrap_or_else(|| "without a path".to_string())
}
