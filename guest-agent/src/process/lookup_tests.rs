use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn file(dir: &Path, name: &str, mode: u32) -> CString {
    let path = dir.join(name);
    fs::write(&path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    CString::new(path.into_os_string().into_vec()).unwrap()
}

#[test]
fn the_first_executable_in_path_is_taken() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    file(a.path(), "tool", 0o644);
    let executable = file(b.path(), "tool", 0o755);
    fs::create_dir(a.path().join("dir")).unwrap();
    let path = format!("/nonexistent:{}:{}", a.path().display(), b.path().display());
    assert_eq!(find(c"tool", &path).unwrap(), executable);
    let error = find(c"foo", &path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to start container process: exec: \"foo\": executable file not found in $PATH"
    );
    assert_eq!(find(c"dir", &path), Err(Error::NotInPath("dir".into())));
    assert_eq!(find(c"", &path), Err(Error::NotInPath(String::new())));
}

#[test]
fn a_path_is_not_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let executable = file(dir.path(), "x", 0o755);
    assert_eq!(find(&executable, "/bin").unwrap(), executable);
    let error = find(c"/nonexistent/x", "/bin").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to start container process: exec: \"/nonexistent/x\": stat /nonexistent/x: no such file or directory"
    );
    let plain = file(dir.path(), "plain", 0o644);
    let error = find(&plain, "/bin").unwrap_err().to_string();
    assert!(error.ends_with("plain\": permission denied"), "{error}");
    let error = find(c"/tmp", "").unwrap_err().to_string();
    assert_eq!(error, "unable to start container process: exec: \"/tmp\": is a directory");
}

#[test]
fn path_comes_from_the_environment() {
    let env = [c"A=1".to_owned(), c"PATH=/a".to_owned(), c"PATH=/b:/c".to_owned()];
    assert_eq!(path_of(&env), "/b:/c");
    assert_eq!(path_of(&[]), "");
}
