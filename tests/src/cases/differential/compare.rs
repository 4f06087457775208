//! Two reports side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One fact that is not the same.
pub(super) struct Difference {
    pub(super) key: String,
    pub(super) runc: Option<String>,
    pub(super) sandbox: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.as_ref().map_or("nothing".to_owned(), |value| format!("\"{value}\""));
        write!(f, "{}: {} with runc, {} with sandbox", self.key, show(&self.runc), show(&self.sandbox))
    }
}

/// Takes a program's output apart: lines `key=value` are facts, others have their number for a key.
pub(super) fn facts(output: &str) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for (number, line) in output.lines().enumerate() {
        match line.split_once('=') {
            Some((key, value)) => facts.insert(key.to_owned(), value.to_owned()),
            None => facts.insert(format!("line {number}"), line.to_owned()),
        };
    }
    facts
}

/// What is in one and not in the other, or not the same.
pub(super) fn differences(runc: &BTreeMap<String, String>, sandbox: &BTreeMap<String, String>) -> Vec<Difference> {
    let keys: BTreeSet<&String> = runc.keys().chain(sandbox.keys()).collect();
    let differ = |key: &&String| runc.get(*key) != sandbox.get(*key);
    let difference = |key: &String| Difference {
        key: key.clone(),
        runc: runc.get(key).cloned(),
        sandbox: sandbox.get(key).cloned(),
    };
    keys.into_iter().filter(differ).map(difference).collect()
}

/// Whether a text is as a pattern says, in which `*` stands for anything.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn differences_name_both_sides() {
        let found = differences(&facts("a=1\nb=2\nsame=x\nword"), &facts("a=1\nb=3\nsame=x\nc=4\nword"));
        let lines: Vec<String> = found.iter().map(Difference::to_string).collect();
        assert_eq!(
            lines,
            [
                "b: \"2\" with runc, \"3\" with sandbox",
                "c: nothing with runc, \"4\" with sandbox",
                "line 3: \"word\" with runc, nothing with sandbox",
                "line 4: nothing with runc, \"word\" with sandbox"
            ]
        );
    }
}
