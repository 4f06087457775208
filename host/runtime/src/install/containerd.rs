//! containerd's config.toml: `[plugins.CRI.containerd.runtimes.NAME]`, with which its runc shim calls another program.
//! What else is in the file keeps its bytes.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};

use super::engine::{Change, is_ours};
use super::error::Refusal;
use crate::error::shown;
use crate::settings::place;

/// The shim that calls runc, or what `BinaryName` names.
const TYPE: &str = "io.containerd.runc.v2";
/// containerd's own runtime.
const RUNC: &str = "runc";
/// The setting that names the runtime of pods whose creator names none.
const DEFAULT: &str = "default_runtime_name";
/// What a file that is made here begins with: containerd 1.x and 2.x read it.
const VERSION: &str = "version = 2";
/// What the plugin that reads the runtimes is called, from version 1 to 4.
const CRI: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];

/// The text with the runtime.
pub(super) fn add(text: &str, name: &str, program: &str) -> Result<Change, Refusal> {
    let mut document = parse(text)?;
    if cri_is_disabled(&document) {
        return Ok(Change::Unused);
    }
    if document.is_empty() {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        document = parse(&format!("{text}{end}{VERSION}\n"))?;
    }
    let path = path(&document)?.ok_or(Refusal::OldVersion)?;
    let runtimes = find_or_make(&mut document, &path)?;
    match runtimes.get_mut(name) {
        None => insert(runtimes, name, program),
        Some(entry) => match binary(entry) {
            Some(path) if path == program => return Ok(Change::Present),
            Some(path) if is_ours(path) => {
                set_binary(entry, program);
                return Ok(Change::Updated(document.to_string()));
            }
            _ => return Err(Refusal::Foreign { name: name.to_string(), program: described(entry) }),
        },
    }
    Ok(Change::Added(document.to_string()))
}

/// The text without the runtime, and without what was made for it.
pub(super) fn remove(text: &str, before: Option<&str>, name: &str) -> Result<Change, Refusal> {
    let mut document = parse(text)?;
    let Some(path) = path(&document)? else { return Ok(Change::Absent) };
    let default = at(&document, &[path[0], path[1], path[2], DEFAULT]).and_then(Item::as_str) == Some(name);
    let Some(runtimes) = find(&mut document, &path) else { return Ok(Change::Absent) };
    match runtimes.get(name) {
        None => return Ok(Change::Absent),
        Some(entry) if !binary(entry).is_some_and(is_ours) => return Ok(Change::NotOurs(described(entry))),
        Some(_) if default => return Err(Refusal::Default { field: DEFAULT, name: name.to_string() }),
        Some(_) => drop(runtimes.remove(name)),
    }
    // What cannot be read says nothing of what was there.
    let earlier = before.map(|text| parse(text).unwrap_or_default());
    tidy(&mut document, earlier.as_ref(), &path);
    let text = document.to_string();
    let bare = document.iter().all(|(key, _)| key == "version");
    Ok(match (before, earlier) {
        (None, _) if text.trim() == VERSION => Change::FileRemoved,
        // The line end of its last line included.
        (Some(before), _) if before.trim_end() == text.trim_end() => Change::TakenOut(before.to_string()),
        (Some(before), Some(earlier)) if bare && earlier.is_empty() => Change::TakenOut(before.to_string()),
        _ => Change::TakenOut(text),
    })
}

/// Removes what has become empty, unless it was there before.
fn tidy(document: &mut DocumentMut, earlier: Option<&DocumentMut>, path: &[&str; 4]) {
    let was_there = |path: &[&str]| earlier.is_some_and(|earlier| at(earlier, path).is_some());
    if !was_there(&[path[0], path[1], path[2], path[3], RUNC])
        && let Some(runtimes) = find(document, path)
        && runtimes.len() == 1
        && runtimes.get(RUNC).is_some_and(|runc| runc.to_string() == runtime().to_string())
    {
        runtimes.remove(RUNC);
    }
    for depth in (0..path.len()).rev() {
        let is_empty = |item: &Item| item.as_table_like().is_some_and(TableLike::is_empty);
        if !was_there(&path[..=depth])
            && at(document, &path[..=depth]).is_some_and(is_empty)
            && let Some(parent) = find(document, &path[..depth])
        {
            parent.remove(path[depth]);
        }
    }
}

fn parse(text: &str) -> Result<DocumentMut, Refusal> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        Refusal::Syntax { line, column, message: shown(error.message()) }
    })
}

/// Where the runtimes are in a file of this version; nowhere in one of version 1, which is what a file without a version has.
fn path(document: &DocumentMut) -> Result<Option<[&'static str; 4]>, Refusal> {
    let Some(version) = document.get("version") else { return Ok(None) };
    let plugin = match version.as_integer() {
        Some(1) => return Ok(None),
        Some(2) => CRI[1],
        Some(3 | 4) => CRI[2],
        Some(other) => return Err(Refusal::UnknownVersion(other)),
        None => return Err(Refusal::Type { field: "version".to_string(), expected: "a number" }),
    };
    Ok(Some(["plugins", plugin, "containerd", "runtimes"]))
}

/// Docker's packages ship containerd in this way.
fn cri_is_disabled(document: &DocumentMut) -> bool {
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    disabled.is_some_and(|names| names.iter().filter_map(Value::as_str).any(|name| CRI.contains(&name)))
}

fn at<'a>(document: &'a DocumentMut, path: &[&str]) -> Option<&'a Item> {
    path.iter().try_fold(document.as_item(), |item, key| item.get(key))
}

fn find<'a>(document: &'a mut DocumentMut, path: &[&str]) -> Option<&'a mut dyn TableLike> {
    path.iter().try_fold(document.as_item_mut(), |item, key| item.get_mut(key))?.as_table_like_mut()
}

fn find_or_make<'a>(document: &'a mut DocumentMut, path: &[&str]) -> Result<&'a mut dyn TableLike, Refusal> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in path.iter().enumerate() {
        if !table.contains_key(key) {
            let mut made = Table::new();
            // Its name is in those of the tables below it.
            made.set_implicit(true);
            table.insert(key, Item::Table(made));
        }
        let inner = table.get_mut(key).and_then(Item::as_table_like_mut);
        table = inner.ok_or_else(|| Refusal::Type { field: path[..=depth].join("."), expected: "a table" })?;
    }
    Ok(table)
}

fn insert(runtimes: &mut dyn TableLike, name: &str, program: &str) {
    if runtimes.is_empty() {
        // containerd 1.x takes the file's runtimes for all that there are: it would not find its own default.
        runtimes.insert(RUNC, Item::Table(runtime()));
    }
    let mut options = Table::new();
    options.insert("BinaryName", value(program));
    // One of the two manages a pod's cgroups, for all runtimes.
    if let Some(systemd) = runtimes.get(RUNC).and_then(|runc| runc.get("options")?.get("SystemdCgroup")?.as_bool()) {
        options.insert("SystemdCgroup", value(systemd));
    }
    let mut entry = runtime();
    entry.insert("options", Item::Table(options));
    runtimes.insert(name, Item::Table(entry));
}

fn runtime() -> Table {
    Table::from_iter([("runtime_type", TYPE)])
}

/// What the shim calls for a runtime, if that is named.
fn binary(entry: &Item) -> Option<&str> {
    if entry.get("runtime_type")?.as_str()? != TYPE {
        return None;
    }
    entry.get("options")?.get("BinaryName")?.as_str()
}

fn set_binary(entry: &mut Item, program: &str) {
    let name = entry.get_mut("options").and_then(|options| options.get_mut("BinaryName"));
    if let Some(name) = name.and_then(Item::as_value_mut) {
        // With the comment behind it.
        let decor = name.decor().clone();
        *name = program.into();
        *name.decor_mut() = decor;
    }
}

/// What a runtime is, in a word.
fn described(entry: &Item) -> String {
    let kind = entry.get("runtime_type").and_then(Item::as_str);
    binary(entry).or(kind).unwrap_or("without a type").to_string()
}
