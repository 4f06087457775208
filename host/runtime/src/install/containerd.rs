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
                return Ok(Change::Updated(written(&document, text)));
            }
            _ => return Err(Refusal::Foreign { name: name.to_string(), program: described(entry) }),
        },
    }
    Ok(Change::Added(written(&document, text)))
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
    let earlier = before.and_then(|text| parse(text).ok());
    tidy(&mut document, earlier.as_ref(), &path);
    let text = written(&document, text);
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
        && runtimes.get(RUNC).is_some_and(is_bare_runtime)
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

/// A document with the line ends of the text that it was made of. By itself it has line feeds alone.
fn written(document: &DocumentMut, text: &str) -> String {
    let lines = document.to_string();
    let by_two = text.matches("\r\n").count();
    if by_two > 0 && by_two == text.matches('\n').count() { lines.replace('\n', "\r\n") } else { lines }
}

/// Where the runtimes are in a file of this version; nowhere in one of version 1, which is that of a file without any.
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

fn is_bare_runtime(item: &Item) -> bool {
    let only = item.as_table_like().is_some_and(|table| table.len() == 1);
    only && item.get("runtime_type").and_then(Item::as_str) == Some(TYPE)
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

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "/usr/local/bin/sandbox";
    const RUNTIMES_2: &str = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
    const RUNTIMES_3: &str = "plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes";

    fn added(text: &str) -> String {
        match add(text, "sandbox", PROGRAM) {
            Ok(Change::Added(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    /// As containerd writes its defaults.
    fn version_3() -> String {
        format!(
            concat!(
                "version = 3\nroot = '/var/lib/containerd' # here\n\n[plugins]\n  [{0}]\n    [{0}.runc]\n",
                "      runtime_type = 'io.containerd.runc.v2'\n\n      [{0}.runc.options]\n        SystemdCgroup = true\n\n",
                "  [plugins.'io.containerd.gc.v1.scheduler']\n    pause_threshold = 0.02\n# the end\n"
            ),
            RUNTIMES_3
        )
    }

    #[test]
    fn a_new_file_keeps_the_default_runtime() {
        let expected = format!(
            concat!(
                "version = 2\n\n[{0}.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\n",
                "[{0}.sandbox]\nruntime_type = \"io.containerd.runc.v2\"\n\n",
                "[{0}.sandbox.options]\nBinaryName = \"{1}\"\n"
            ),
            RUNTIMES_2, PROGRAM
        );
        assert_eq!(added(""), expected);
        assert_eq!(added("version = 2\n"), expected);
        assert_eq!(added("# nothing yet"), format!("# nothing yet\n{expected}"));
    }

    #[test]
    fn a_configuration_of_version_3() {
        let expected = format!(
            concat!(
                "[{0}.sandbox]\nruntime_type = \"io.containerd.runc.v2\"\n\n",
                "[{0}.sandbox.options]\nBinaryName = \"{1}\"\nSystemdCgroup = true\n\n"
            ),
            RUNTIMES_3, PROGRAM
        );
        let text = version_3();
        let at = text.find("  [plugins.'io.containerd.gc").unwrap();
        assert_eq!(added(&text), format!("{}{expected}{}", &text[..at], &text[at..]));
        let version_4 = text.replace("version = 3", "version = 4");
        assert_eq!(added(&version_4), added(&text).replace("version = 3", "version = 4"));
    }

    #[test]
    fn added_and_taken_out_is_as_before() {
        let text = version_3();
        for text in [
            "",
            "# nothing yet",
            "version = 2",
            "version = 3\n[plugins]\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes]\n# none\n",
            "version = 2\nplugins = { a = 1 }\n",
            "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.runtime_type = 'x'\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
            &text,
        ] {
            let with = added(text);
            assert_eq!(add(&with, "sandbox", PROGRAM), Ok(Change::Present), "{with}");
            assert_eq!(remove(&with, Some(text), "sandbox"), Ok(Change::TakenOut(text.to_string())));
            assert_eq!(remove(text, Some(text), "sandbox"), Ok(Change::Absent));
        }
    }

    #[test]
    fn line_ends_stay() {
        let text = "version = 2\r\nroot = '/x'\r\n\r\n[plugins]\r\n  a = 1 # one\r\n";
        let with = added(text);
        assert!(with.starts_with(text), "{with:?}");
        assert_eq!(remove(&with, Some(text), "sandbox"), Ok(Change::TakenOut(text.to_string())));
    }

    #[test]
    fn only_what_was_made_is_removed() {
        assert_eq!(remove(&added(""), None, "sandbox"), Ok(Change::FileRemoved));
        assert_eq!(remove(&added(""), Some("="), "sandbox"), Ok(Change::TakenOut("version = 2\n".to_string())));
        // Another runtime needs the default beside it.
        let Ok(Change::Added(two)) = add(&added(""), "vm", PROGRAM) else { panic!("not added") };
        let Ok(Change::TakenOut(one)) = remove(&two, None, "sandbox") else { panic!("not taken out") };
        assert!(one.contains(".runc]") && one.contains(".vm]") && !one.contains(".sandbox]"), "{one}");
        assert_eq!(remove(&one, None, "vm"), Ok(Change::FileRemoved));
        let root = format!("root = '/x'\n{}", added(""));
        assert_eq!(remove(&root, None, "sandbox"), Ok(Change::TakenOut("root = '/x'\nversion = 2\n".to_string())));
    }

    #[test]
    fn an_entry_of_ours_gets_the_new_path() {
        let text = added("").replace(&format!("\"{PROGRAM}\""), "'/old/sandbox' # old");
        let expected = added("").replace(&format!("\"{PROGRAM}\""), &format!("\"{PROGRAM}\" # old"));
        assert_eq!(add(&text, "sandbox", PROGRAM), Ok(Change::Updated(expected)));
    }

    #[test]
    fn what_is_not_ours() {
        for (entry, program) in [
            ("runtime_type = 'io.containerd.runsc.v1'\noptions.BinaryName = '/sandbox'\n", "io.containerd.runsc.v1"),
            ("runtime_type = 'io.containerd.runc.v2'\noptions = { BinaryName = '/bin/crun' }\n", "/bin/crun"),
            ("runtime_type = 'io.containerd.runc.v2'\n", "io.containerd.runc.v2"),
            ("", "without a type"),
        ] {
            let text = format!("version = 2\n[{RUNTIMES_2}.sandbox]\n{entry}");
            let (name, program) = ("sandbox".to_string(), program.to_string());
            assert_eq!(remove(&text, None, "sandbox"), Ok(Change::NotOurs(program.clone())));
            assert_eq!(add(&text, "sandbox", PROGRAM), Err(Refusal::Foreign { name, program }));
        }
    }

    #[test]
    fn without_the_plugin_nothing_is_added() {
        for disabled in CRI {
            let text = format!("version = 2\ndisabled_plugins = ['restart', '{disabled}']\n");
            assert_eq!(add(&text, "sandbox", PROGRAM), Ok(Change::Unused));
        }
    }

    #[test]
    fn refusals() {
        let default = added(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = 'sandbox'\n",
        );
        let text = remove(&default, None, "sandbox").unwrap_err().to_string();
        assert_eq!(text, "default_runtime_name is sandbox: choose another one there first");
        for text in ["root = '/x'\n", "version = 1\n", "[plugins]\n"] {
            assert_eq!(add(text, "sandbox", PROGRAM), Err(Refusal::OldVersion));
            assert_eq!(remove(text, None, "sandbox"), Ok(Change::Absent));
        }
        for (text, expected) in [
            ("version = 5", "version 5 is not known here: 2, 3 and 4 are"),
            ("version = '2'", "version must be a number: mend the file first"),
            ("version = 2\nplugins = 1", "plugins must be a table: mend the file first"),
        ] {
            assert_eq!(add(text, "sandbox", PROGRAM).unwrap_err().to_string(), expected);
        }
    }
}
