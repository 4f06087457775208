use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A root in a directory, with a file outside that no path may reach.
fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/etc")).unwrap();
    fs::write(dir.path().join("outside"), "").unwrap();
    let root = Root::open(&dir.path().join("root")).unwrap();
    (dir, root)
}

fn seen(root: &Root, path: &str, kind: Kind) -> io::Result<String> {
    let fd = root.get_or_create(Path::new(path), kind)?;
    Ok(root.seen_path(fd.as_fd())?.display().to_string())
}

#[test]
fn missing_directories_are_made() {
    let (dir, root) = root();
    assert_eq!(seen(&root, "/a/b/c", Kind::Directory).unwrap(), "/a/b/c");
    assert!(dir.path().join("root/a/b/c").is_dir());
    assert_eq!(seen(&root, "x/y", Kind::File).unwrap(), "/x/y");
    assert!(dir.path().join("root/x/y").is_file());
    assert_eq!(seen(&root, "/", Kind::Directory).unwrap(), "/");
    assert_eq!(seen(&root, "", Kind::Directory).unwrap(), "/");
}

#[test]
fn no_link_leads_outside() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    symlink("../../../../outside", inside.join("up")).unwrap();
    symlink(dir.path().join("outside"), inside.join("absolute")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    assert_eq!(seen(&root, "/up", Kind::File).unwrap(), "/outside");
    assert!(inside.join("outside").is_file(), "made inside");
    let seen_absolute = seen(&root, "/absolute", Kind::File).unwrap();
    assert!(inside.join(seen_absolute.trim_start_matches('/')).is_file());
    assert_eq!(seen(&root, "/../../etc", Kind::Directory).unwrap(), "/etc");
    assert_eq!(seen(&root, "/magic/x", Kind::Directory).unwrap(), "/proc/self/root/x");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn links_to_missing_directories_are_completed() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    fs::create_dir(inside.join("var")).unwrap();
    symlink("/run", inside.join("var/run")).unwrap();
    symlink("../lib64/deep", inside.join("etc/link")).unwrap();
    assert_eq!(seen(&root, "/var/run/x", Kind::Directory).unwrap(), "/run/x");
    assert_eq!(seen(&root, "/etc/link/y", Kind::File).unwrap(), "/lib64/deep/y");
}

#[test]
fn circles_end() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    symlink("b", inside.join("a")).unwrap();
    symlink("a", inside.join("b")).unwrap();
    assert!(seen(&root, "/a/x", Kind::Directory).is_err());
    symlink("self/x", inside.join("self")).unwrap();
    assert!(seen(&root, "/self", Kind::Directory).is_err());
}

#[test]
fn a_file_is_no_directory() {
    let (_dir, root) = root();
    seen(&root, "/etc/f", Kind::File).unwrap();
    let error = seen(&root, "/etc/f/x", Kind::Directory).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn links_are_other_than_directories() {
    let (dir, root) = root();
    let inside = dir.path().join("root");
    symlink("/etc", inside.join("proc")).unwrap();
    fs::write(inside.join("sys"), "").unwrap();
    let other = |path: &str| root.is_other_than_directory(Path::new(path));
    assert!(other("/proc") && other("/sys"));
    assert!(!other("/etc") && !other("/missing") && !other("/"));
}
