use super::*;
use crate::settings::Settings;

#[test]
fn kernel_versions() {
    assert_eq!(system::version("5.14.0-427.el9.x86_64"), Some((5, 14)));
    assert_eq!(system::version("6.1-rc3"), Some((6, 1)));
    assert_eq!(system::version("7"), None);
    assert_eq!(system::version("unknown"), None);
}

#[test]
fn version_1_controllers_are_those_mounted() {
    let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t0\t1\t1\nmemory\t4\t1\t1\n";
    assert_eq!(system::mounted_v1(table), ["cpuset", "memory"]);
}

#[test]
fn file_systems() {
    let directory = tempfile::tempdir().unwrap();
    let here = files::features("here", directory.path());
    let below = files::features("below", &directory.path().join("not/yet"));
    assert_eq!(here.verdict, below.verdict);
    assert!(below.text.contains("not there yet"), "{}", below.text);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_ne!(files::features("proc", Path::new("/proc")).verdict, Verdict::Ok);
    let state = files::writable("state", &directory.path().join("not/yet"));
    assert_eq!(state.verdict, Verdict::Ok, "{}", state.text);
    assert_eq!(files::writable("relative", Path::new("not/there/yet")).verdict, Verdict::Ok);
    assert_eq!(files::writable("proc", Path::new("/proc/sys/kernel/none")).verdict, Verdict::Fail);
}

#[test]
fn a_report_has_a_line_for_each_finding() {
    let directory = tempfile::tempdir().unwrap();
    let mut out = Vec::new();
    let healthy =
        run(&directory.path().join("root"), directory.path(), &GuestFiles::configured(&Settings::default()), &mut out)
            .unwrap();
    let text = String::from_utf8(out).unwrap();
    println!("{text}");
    for line in text.lines() {
        assert!(["ok   ", "warn ", "FAIL "].iter().any(|verdict| line.starts_with(verdict)), "{line}");
    }
    assert_eq!(healthy, !text.lines().any(|line| line.starts_with("FAIL")));
    let mut out = Vec::new();
    let usable = run_kvm(&mut out).unwrap();
    assert_eq!(usable, !text.contains("FAIL KVM"), "{}", String::from_utf8_lossy(&out));
    for subject in
        ["host kernel", "KVM", "cgroups", "state directory", "guest kernel", "guest initramfs", "/dev/net/tun"]
    {
        assert!(text.contains(&format!(" {subject}: ")), "{subject} is not in the report");
    }
}
