use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn only_procfs_goes_onto_proc_and_little_below_it() {
    let allows = |path: &str, procfs| proc_allows(Path::new(path), procfs);
    assert!(allows("/proc", true));
    assert!(!allows("/proc", false));
    assert!(allows("/proc/cpuinfo", false));
    assert!(!allows("/proc/self/attr", false));
    assert!(!allows("/proc/sys", true));
    assert!(allows("/process", false));
    assert!(allows("/", false));
}

#[test]
fn a_tree_is_copied_with_modes_and_links() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(from.path().join("d")).unwrap();
    std::fs::write(from.path().join("d/f"), "text").unwrap();
    std::fs::set_permissions(from.path().join("d/f"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/nowhere", from.path().join("l")).unwrap();
    copy_tree(from.path(), to.path(), 0).unwrap();
    assert_eq!(std::fs::read(to.path().join("d/f")).unwrap(), b"text");
    assert_eq!(std::fs::metadata(to.path().join("d/f")).unwrap().permissions().mode() & 0o7777, 0o4711);
    assert_eq!(std::fs::read_link(to.path().join("l")).unwrap(), Path::new("/nowhere"));
}

#[test]
fn a_tmpfs_is_filled_before_it_is_read_only() {
    let plan = |fs_type: &str, destination: &str, options: &[&str]| MountPlan {
        destination: destination.into(),
        fs_type: fs_type.to_owned(),
        source: PathBuf::new(),
        options: crate::mounts::options::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>()).unwrap(),
        id_maps: None,
    };
    assert!(waits(&plan("tmpfs", "/a", &["ro"])) && waits(&plan("tmpfs", "/a", &["ro", "tmpcopyup"])));
    assert!(waits(&plan("devtmpfs", "/dev/", &["ro"])) && waits(&plan("tmpfs", "dev", &["ro"])));
    for at_once in [
        plan("tmpfs", "/a", &["ro", "rw"]),
        plan("tmpfs", "/a", &["rro"]),
        plan("sysfs", "/sys", &["ro"]),
        plan("bind", "/dev", &["ro"]),
        plan("tmpfs", "/a", &["rbind", "ro"]),
        plan("tmpfs", "/a", &["remount", "ro"]),
    ] {
        assert!(!waits(&at_once));
    }
}
