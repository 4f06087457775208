//! Overlays of host directories. A guest's overlayfs takes no upper directory that is shared with it, so the monitor mounts the overlay
//! in its own namespace, and the guest gets the result as it gets a bind mount's source.

use std::path::{Path, PathBuf};

use agent_protocol::SHARE_DIR;
use oci_spec::runtime::Mount;

use super::{ShareError, below, resolve};
use crate::control::Share;

/// Options of overlayfs that have no value.
const WORDS: [&str; 3] = ["volatile", "userxattr", "default_permissions"];

/// An overlay with layers of the host's.
pub fn is_one(mount: &Mount) -> bool {
    let layered = |option: &String| option.starts_with("lowerdir=");
    mount.typ().as_deref() == Some("overlay") && mount.options().iter().flatten().any(layered)
}

/// What the monitor is to mount; the guest is told of a bind mount with the same flags.
pub fn share(index: usize, mount: &mut Mount, bundle: &Path, number: usize) -> Result<Share, ShareError> {
    let readonly = below::read_only(mount);
    let given = mount.options().clone().unwrap_or_default();
    let (own, mut flags): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|option| option.contains('=') || WORDS.contains(&option.as_str()));
    let mut source = None;
    let mut options = Vec::new();
    for option in own {
        let layers = |name: &str, list: &str| layers(index, name, list, bundle);
        options.push(match option.split_once('=') {
            Some((name @ "lowerdir", list)) => {
                let (first, text) = layers(name, list)?;
                source = source.or(first);
                format!("{name}={text}")
            }
            Some((name @ ("upperdir" | "workdir"), path)) => format!("{name}={}", layers(name, path)?.1),
            _ => option,
        });
    }
    let source = source.ok_or(ShareError::NoSource(index))?;
    let name = format!("mounts/{number}");
    flags.push("rbind".to_owned());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(Path::new(SHARE_DIR).join(&name)));
    mount.set_options(Some(flags));
    let overlay = Some(options.join(","));
    Ok(Share { source, name, directory: true, recursive: false, readonly, id_map: None, overlay })
}

/// Directories separated by colons, absolute in the answer, and the first of them. A colon in a name is `\:`, and an empty name is
/// overlayfs's own matter.
fn layers(index: usize, option: &str, list: &str, bundle: &Path) -> Result<(Option<PathBuf>, String), ShareError> {
    let mut first = None;
    let mut texts = Vec::new();
    for part in split(list) {
        if part.is_empty() {
            texts.push(part);
            continue;
        }
        let plain = part.replace("\\:", ":");
        let (path, metadata) = resolve(&format!("mounts[{index}].options: {option}"), &bundle.join(plain))?;
        if !metadata.is_dir() {
            return Err(ShareError::Layer { index, option: option.to_owned(), path });
        }
        texts.push(path.display().to_string().replace(':', "\\:").replace(',', "\\,"));
        first = first.or(Some(path));
    }
    Ok((first, texts.join(":")))
}

/// At colons without a backslash in front.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in list.chars() {
        match (character, parts.last_mut()) {
            (':', _) if !escaped => parts.push(String::new()),
            (_, Some(last)) => last.push(character),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    parts
}

#[cfg(test)]
mod tests {
    use crate::control::ReadOnly;
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn mount(options: Value) -> Mount {
        serde_json::from_value(json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": options}))
            .unwrap()
    }

    #[test]
    fn the_guest_gets_a_bind_mount() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().canonicalize().unwrap();
        ["a", "b:c", "up", "work"].iter().for_each(|name| fs::create_dir(bundle.join(name)).unwrap());
        let mut mount = mount(json!(["nosuid", "lowerdir=a:b\\:c", "upperdir=up", "workdir=work", "index=off", "ro"]));
        assert!(is_one(&mount));
        let share = share(3, &mut mount, &bundle, 1).unwrap();
        let at = |name: &str| bundle.join(name).display().to_string();
        let options =
            format!("lowerdir={}:{},upperdir={},workdir={},index=off", at("a"), at("b\\:c"), at("up"), at("work"));
        assert_eq!((share.overlay, share.source, share.readonly), (Some(options), bundle.join("a"), ReadOnly::Top));
        assert_eq!(mount.options().as_deref().unwrap(), ["nosuid", "ro", "rbind"]);
        assert_eq!((mount.typ().as_deref(), share.name.as_str()), (Some("bind"), "mounts/1"));
    }

    #[test]
    fn layers_are_directories_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let refusal =
            |option: &str| share(0, &mut mount(json!([option])), directory.path(), 0).unwrap_err().to_string();
        assert!(refusal("lowerdir=gone").starts_with("mounts[0].options: lowerdir "));
        assert!(refusal("lowerdir=file").ends_with("not a directory"));
        assert!(!is_one(&mount(json!(["upperdir=x"]))));
        assert_eq!(split("a::b\\:c"), ["a", "", "b\\:c"]);
    }
}
