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

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/usr/local/bin/sandbox";

    fn added(text: &str) -> String {
        match add(text, "sandbox", PROGRAM) {
            Ok(Change::Added(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_there_keeps_its_look() {
        for (text, expected) in [
            (
                "{\n\t\"z\": 1.50e3,\n\t\"a\": {\"b\": [1, 2]}\n}",
                "{\n\t\"z\": 1.50e3,\n\t\"a\": {\"b\": [1, 2]},\n\t\"runtimes\": {\n\t\t\"sandbox\": {\n\t\t\t\"path\": \"P\"\n\t\t}\n\t}\n}",
            ),
            (
                "{\n    \"runtimes\": {\n        \"r\": {\"path\": \"r\"}\n    },\n    \"a\": \"b\"\n}\n",
                "{\n    \"runtimes\": {\n        \"r\": {\"path\": \"r\"},\n        \"sandbox\": {\n            \"path\": \"P\"\n        }\n    },\n    \"a\": \"b\"\n}\n",
            ),
            ("", "{\n  \"runtimes\": {\n    \"sandbox\": {\n      \"path\": \"P\"\n    }\n  }\n}\n"),
        ] {
            assert_eq!(added(text), expected.replace("\"P\"", &format!("{PROGRAM:?}")), "{text}");
        }
    }

    #[test]
    fn added_and_taken_out_is_as_before() {
        for text in [
            "",
            " \n",
            "{}",
            "{ }\n",
            "{\"debug\":true}",
            "{ \"debug\": true, \"dns\": [ \"1.1.1.1\" ] }\n",
            "{\n\t\"runtimes\": {},\n\t\"debug\": true\n}\n",
            "{\n  \"runtimes\": {\n    \"r\": {\n      \"path\": \"r\"\n    }\n  }\n}\n",
        ] {
            let with = added(text);
            assert_eq!(add(&with, "sandbox", PROGRAM), Ok(Change::Present), "{text}");
            assert_eq!(remove(&with, Some(text), "sandbox"), Ok(Change::TakenOut(text.to_string())));
            assert_eq!(remove(text, Some(text), "sandbox"), Ok(Change::Absent));
        }
    }

    #[test]
    fn only_what_was_made_is_removed() {
        let alone = added("");
        assert_eq!(remove(&alone, None, "sandbox"), Ok(Change::FileRemoved));
        let debug = added("{\n  \"debug\": true\n}\n");
        assert_eq!(remove(&debug, None, "sandbox"), Ok(Change::TakenOut("{\n  \"debug\": true\n}\n".to_string())));
        // Those who had an empty list keep it, whatever else they changed meanwhile.
        let kept = Change::TakenOut("{\n  \"runtimes\": {}\n}\n".to_string());
        assert_eq!(remove(&alone, Some("{\"runtimes\": {}, \"debug\": true}"), "sandbox"), Ok(kept));
        // A backup that cannot be read is no reason to remove the file.
        assert!(matches!(remove(&alone, Some("{"), "sandbox"), Ok(Change::TakenOut(text)) if text.trim() == "{}"));
    }

    #[test]
    fn what_is_left_is_json_and_all_that_was_there() {
        let (ours, other) = (format!("\"sandbox\": {{\"path\": {PROGRAM:?}}}"), "\"r\": {\"path\": \"r\"}");
        let lists = [format!("{ours}, {other}"), format!("{other}, {ours}"), format!("\n  {other},\n  {ours}\n")];
        for list in &lists {
            for (before, after) in [("", ""), ("\"debug\": true, ", ""), ("", ", \"debug\": true")] {
                let text = format!("{{{before}\"runtimes\": {{{list}}}{after}}}");
                let Ok(Change::TakenOut(left)) = remove(&text, None, "sandbox") else { panic!("{text}") };
                let mut expected: Value = serde_json::from_str(&text).unwrap();
                expected["runtimes"].as_object_mut().unwrap().remove("sandbox");
                assert_eq!(serde_json::from_str::<Value>(&left).unwrap_or_default(), expected, "{text}: {left}");
            }
        }
    }

    #[test]
    fn line_ends_stay() {
        let text = "{\r\n  \"debug\": true\r\n}\r\n";
        let with = added(text);
        assert!(with.starts_with("{\r\n  \"debug\": true,") && with.ends_with("\r\n}\r\n"), "{with:?}");
        assert_eq!(remove(&with, Some(text), "sandbox"), Ok(Change::TakenOut(text.to_string())));
    }

    #[test]
    fn an_entry_of_ours_gets_the_new_path_and_keeps_its_arguments() {
        let text = r#"{"runtimes": {"sandbox": {"path": "/old/sandbox", "runtimeArgs": ["--debug"]}}}"#;
        let expected = text.replace("/old/sandbox", PROGRAM);
        assert_eq!(add(text, "sandbox", PROGRAM), Ok(Change::Updated(expected)));
    }

    #[test]
    fn what_is_not_ours() {
        for (entry, program) in [
            (r#"{"path": "/usr/bin/runc"}"#, "/usr/bin/runc"),
            (r#"{"runtimeType": "io.containerd.kata.v2"}"#, "io.containerd.kata.v2"),
            (r#"{"path": 1}"#, "without a path"),
            ("null", "without a path"),
        ] {
            let text = format!("{{\"runtimes\": {{\"sandbox\": {entry}}}}}");
            let (name, program) = ("sandbox".to_string(), program.to_string());
            assert_eq!(remove(&text, None, "sandbox"), Ok(Change::NotOurs(program.clone())));
            assert_eq!(add(&text, "sandbox", PROGRAM), Err(Refusal::Foreign { name, program }));
        }
    }

    #[test]
    fn refusals() {
        let default = added("{\"default-runtime\": \"sandbox\"}");
        let text = remove(&default, None, "sandbox").unwrap_err().to_string();
        assert_eq!(text, "default-runtime is sandbox: choose another one there first");
        for (text, expected) in [
            ("[]", "the file must be an object: mend the file first"),
            ("{\"runtimes\": []}", "runtimes must be an object: mend the file first"),
            ("{\n\"a\" 1}", "line 2, column 5: expected `:`: mend the file first"),
            ("// docker reads none\n{}", "line 1, column 1: expected value: mend the file first"),
        ] {
            assert_eq!(add(text, "sandbox", PROGRAM).unwrap_err().to_string(), expected);
            assert_eq!(remove(text, None, "sandbox").unwrap_err().to_string(), expected);
        }
    }
}
