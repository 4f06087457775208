//! docs/oci.md has one row for each field of config.json, and each row a test that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

const APPLIED: [&str; 5] = ["guest", "host", "both", "refused", "no effect"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Collects the fields that hold a value themselves: `a.b[].c`, with `*` for any key.
struct Walk {
    documents: BTreeMap<String, Value>,
    fields: BTreeSet<String>,
}

impl Walk {
    fn document(&mut self, file: &str) -> Value {
        let load = || serde_json::from_str(&read(&format!("tests/schema/{file}"))).expect("JSON");
        self.documents.entry(file.to_string()).or_insert_with(load).clone()
    }

    fn node(&mut self, node: &Value, file: &str, path: &str) {
        if let Some(reference) = node.get("$ref") {
            return self.reference(reference.as_str().expect("a string"), file, path);
        }
        let mut leaf = true;
        for word in ["allOf", "anyOf", "oneOf"] {
            for choice in node.get(word).and_then(Value::as_array).into_iter().flatten() {
                if choice.get("type").is_none_or(|kind| kind != "null") {
                    self.node(choice, file, path);
                    leaf = false;
                }
            }
        }
        for (key, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.node(property, file, &path);
            leaf = false;
        }
        if let Some(items) = node.get("items").filter(|items| items.is_object()) {
            self.node(items, file, &format!("{path}[]"));
            leaf = false;
        }
        let named = node.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
        for any in named.chain(node.get("additionalProperties")).filter(|any| any.is_object()) {
            self.node(any, file, &format!("{path}.*"));
            leaf = false;
        }
        if leaf {
            self.fields.insert(path.to_string());
        }
    }

    fn reference(&mut self, reference: &str, file: &str, path: &str) {
        let (other, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let other = if other.is_empty() { file } else { other };
        if ["config-solaris.json", "config-windows.json", "config-zos.json"].contains(&other) {
            // Refused as a whole: one row each.
            self.fields.insert(path.to_string());
            return;
        }
        let document = self.document(other);
        let pointer = format!("/{}", pointer.trim_start_matches('/'));
        let node = document.pointer(&pointer).unwrap_or_else(|| panic!("{other}{pointer} is not there"));
        self.node(node, other, path);
    }
}

fn fields() -> BTreeSet<String> {
    let mut walk = Walk { documents: BTreeMap::new(), fields: BTreeSet::new() };
    let root = walk.document("config-schema.json");
    walk.node(&root, "config-schema.json", "");
    let added = read("tests/schema/added.txt");
    let added = added.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for field in added {
        assert!(walk.fields.insert(field.to_string()), "{field} is in the schema already");
    }
    walk.fields
}

/// The cells of the table's rows.
fn rows() -> Vec<[String; 4]> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_string()).collect()
    };
    let document = read("docs/oci.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| cells(line).try_into().unwrap_or_else(|_| panic!("not four cells: {line}"))).collect()
}

fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        let name = entry.file_name();
        if kind.is_dir() && !["target", "build", ".git"].iter().any(|skipped| name == *skipped) {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let fields = fields();
    assert!(fields.len() > 150, "the walk found {} fields", fields.len());
    let mut documented = BTreeSet::new();
    for [field, applied, how, _] in rows() {
        let field = field.trim_matches('`').to_string();
        assert!(APPLIED.contains(&applied.as_str()), "{field}: applied {applied:?}");
        assert!(!how.is_empty() || applied == "guest", "{field}: {applied}, and no reason");
        assert!(documented.insert(field.clone()), "{field} has two rows");
    }
    let without_row: Vec<_> = fields.difference(&documented).collect();
    let without_field: Vec<_> = documented.difference(&fields).collect();
    assert!(without_row.is_empty(), "no row in docs/oci.md: {without_row:?}");
    assert!(without_field.is_empty(), "no field of the specification: {without_field:?}");
}

#[test]
fn every_row_names_tests_that_exist() {
    let mut text = String::new();
    sources(&repository(), &mut text);
    for [field, _, _, tests] in rows() {
        let names: Vec<&str> = tests.split(", ").map(|name| name.trim_matches('`')).collect();
        for name in names {
            // A case of the integration tests, or a function that is marked as a test.
            let exists = match name.contains("::") {
                true => ["any", "ours"].iter().any(|kind| text.contains(&format!("{kind}(\"{name}\","))),
                false => {
                    text.contains(&format!("#[test]\nfn {name}()"))
                        || text.contains(&format!("#[test]\n    fn {name}()"))
                }
            };
            assert!(exists && !name.is_empty(), "{field}: there is no test {name:?}");
        }
    }
}
