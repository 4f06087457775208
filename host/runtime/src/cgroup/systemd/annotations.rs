//! Properties of a scope that annotations ask for: `org.systemd.property.NAME`, with a value in GVariant's text format, as runc
//! takes them. Of that format: booleans, numbers with or without their type, strings, and lists of strings.

use std::collections::HashMap;

use zbus::Variant;

use super::super::CgroupError;

/// What such annotations begin with.
pub const PREFIX: &str = "org.systemd.property.";
/// runc's bound.
const SHORTEST_NAME: usize = 3;

/// A property's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `y`
    Byte(u8),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
}

impl Value {
    /// As D-Bus has it.
    pub fn variant(&self) -> Variant<'static> {
        match self.clone() {
            Self::Bool(value) => value.into(),
            Self::Byte(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I64(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::Double(value) => value.into(),
            Self::Text(value) => value.into(),
            Self::Texts(value) => value.into(),
        }
    }
}

/// The properties among `annotations`, in the order of their names.
pub fn properties(annotations: Option<&HashMap<String, String>>) -> Result<Vec<(String, Value)>, CgroupError> {
    let mut list = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX).filter(|name| !name.is_empty()) else { continue };
        let refused = |reason| CgroupError::Annotation { key: key.clone(), reason };
        if name.len() < SHORTEST_NAME || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(refused("what follows the last dot is no name of a property"));
        }
        let value = parse(text).ok_or_else(|| refused("its value is none that D-Bus has (a text is in quotes)"))?;
        list.push(match seconds(name) {
            Some(stem) => {
                let value = microseconds(&value).ok_or_else(|| refused("its value is no number of seconds"))?;
                (format!("{stem}USec"), value)
            }
            None => (name.to_owned(), value),
        });
    }
    list.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(list)
}

/// The name without `Sec`, if systemd has microseconds (`USec`) in its place.
fn seconds(name: &str) -> Option<&str> {
    name.strip_suffix("Sec").filter(|stem| stem.ends_with(|last: char| last.is_ascii_lowercase()))
}

fn microseconds(value: &Value) -> Option<Value> {
    let whole: u64 = match value {
        Value::Byte(value) => u64::from(*value),
        Value::U16(value) => u64::from(*value),
        Value::U32(value) => u64::from(*value),
        Value::U64(value) => *value,
        Value::I16(value) => u64::try_from(*value).ok()?,
        Value::I32(value) => u64::try_from(*value).ok()?,
        Value::I64(value) => u64::try_from(*value).ok()?,
        // 2⁶⁴ microseconds are more than this; a float beyond is cut off there.
        Value::Double(value) if *value >= 0.0 => return Some(Value::U64((value * 1e6) as u64)),
        _ => return None,
    };
    whole.checked_mul(1_000_000).map(Value::U64)
}

fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Some(list) = text.strip_prefix("@as ").unwrap_or(text).strip_prefix('[') {
        return strings(list.strip_suffix(']')?).map(Value::Texts);
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = quoted(text)?;
        return rest.is_empty().then_some(Value::Text(string));
    }
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    match text.split_once(char::is_whitespace) {
        Some((kind, number)) => typed(kind, number.trim_start()),
        None if text.contains(['.', 'e', 'E']) && !text.starts_with("0x") => typed("double", text),
        None => typed("int32", text),
    }
}

fn typed(kind: &str, number: &str) -> Option<Value> {
    if kind == "double" {
        return number.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Double);
    }
    let (negative, digits) = number.strip_prefix('-').map_or((false, number), |digits| (true, digits));
    let (digits, radix) = match digits {
        _ if digits.starts_with("0x") => (&digits[2..], 16),
        _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // A second sign would be taken as part of the number.
    let digits = Some(digits).filter(|digits| digits.starts_with(|first: char| first.is_digit(radix)))?;
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    Some(match kind {
        "byte" => Value::Byte(value.try_into().ok()?),
        "int16" => Value::I16(value.try_into().ok()?),
        "uint16" => Value::U16(value.try_into().ok()?),
        "int32" => Value::I32(value.try_into().ok()?),
        "uint32" => Value::U32(value.try_into().ok()?),
        "int64" => Value::I64(value.try_into().ok()?),
        "uint64" => Value::U64(value.try_into().ok()?),
        _ => return None,
    })
}

/// What stands between the brackets of a list of strings.
fn strings(mut text: &str) -> Option<Vec<String>> {
    let mut list = Vec::new();
    text = text.trim();
    while !text.is_empty() {
        let (string, rest) = quoted(text)?;
        list.push(string);
        let rest = rest.trim_start();
        text = match rest.strip_prefix(',') {
            Some(more) => Some(more.trim_start()).filter(|more| !more.is_empty())?,
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(list)
}

/// The string in quotes at the start, and what follows it. A backslash takes away the next character's meaning.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.chars();
    let quote = rest.next().filter(|quote| ['\'', '"'].contains(quote))?;
    let mut string = String::new();
    loop {
        match rest.next()? {
            end if end == quote => return Some((string, rest.as_str())),
            '\\' => string.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            other => string.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Vec<(String, Value)>, String> {
        let annotations = HashMap::from([(key.to_owned(), value.to_owned()), ("other".to_owned(), "(".to_owned())]);
        properties(Some(&annotations)).map_err(|error| error.to_string())
    }

    #[test]
    fn values_have_the_types_that_are_written() {
        for (text, want) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", Value::Text("inactive-or-failed".into())),
            ("\"a \\\"b\\\"\"", Value::Text("a \"b\"".into())),
            ("37", Value::I32(37)),
            ("-37", Value::I32(-37)),
            ("0x10", Value::I32(16)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("byte 255", Value::Byte(255)),
            ("1.5", Value::Double(1.5)),
            ("['a', \"b\"]", Value::Texts(vec!["a".into(), "b".into()])),
            ("@as []", Value::Texts(vec![])),
        ] {
            assert_eq!(parse(text), Some(want), "{text}");
        }
        for text in [
            "",
            "inactive",
            "'open",
            "'a' b",
            "byte 256",
            "uint32 -1",
            "['a',]",
            "['a' 'b']",
            "[",
            "--1",
            "4294967296",
            "double inf",
            "0x",
            "0x+1",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_checked_and_seconds_become_microseconds() {
        let list = of("org.systemd.property.TimeoutStopSec", "uint32 3").unwrap();
        assert_eq!(list, [("TimeoutStopUSec".to_owned(), Value::U64(3_000_000))]);
        assert_eq!(of("org.systemd.property.TimeoutStopUSec", "uint64 3").unwrap()[0].1, Value::U64(3));
        assert_eq!(of("org.systemd.property.RuntimeMaxSec", "1.5").unwrap()[0].1, Value::U64(1_500_000));
        assert_eq!(of("org.systemd.property.", "1").unwrap(), []);
        for (key, value) in [("x", "1"), ("A.B", "1"), ("Äöü", "1"), ("Description", "unquoted"), ("StopSec", "'x'")]
        {
            let text = of(&format!("{PREFIX}{key}"), value).unwrap_err();
            assert!(text.starts_with("config.json: annotations.org.systemd.property."), "{text}");
        }
    }
}
