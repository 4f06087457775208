use std::fs;

use serde_json::{Value, json};

use super::*;

const OVERHEAD: Overhead = Overhead { above_limit: 1 << 20, least: 0, start: 0 };

fn spec(path: &str, resources: Value) -> Spec {
    let config = json!({"ociVersion": "1.0.2", "linux": {"cgroupsPath": path, "resources": resources}});
    serde_json::from_value(config).unwrap()
}

/// Hierarchies of plain directories.
fn fake(root: &Path, unified: bool) -> Hierarchies {
    let controllers: &[&[&str]] = if unified { &[&[]] } else { &[&["memory"], &["cpu", "cpuacct"], &[]] };
    let hierarchy = |names: &&[&str]| {
        let mount_point = root.join(names.first().unwrap_or(&"unified"));
        fs::create_dir_all(&mount_point).unwrap();
        Hierarchy { controllers: names.iter().map(|n| (*n).to_owned()).collect(), mount_point, own: "me".into() }
    };
    Hierarchies { unified, list: controllers.iter().map(hierarchy).collect() }
}

fn create_in(hierarchies: &Hierarchies, spec: &Spec) -> Result<HostCgroup, CgroupError> {
    let linux = spec.linux().as_ref().unwrap();
    let empty = HostCgroup { unified: hierarchies.unified, overhead: OVERHEAD, places: Vec::new(), scope: None };
    let wanted = place::wanted(linux.cgroups_path().as_deref(), "id", false)?;
    empty.create_in(hierarchies, &wanted, linux.resources().as_ref())
}

#[test]
fn each_hierarchy_gets_one() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), false);
    let cgroup = create_in(&hierarchies, &spec("a/b", Value::Null)).unwrap();
    let paths = cgroup.paths();
    let names: Vec<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(names, ["", "cpu", "cpuacct", "memory"]);
    assert_eq!(paths["cpuacct"], root.path().join("cpu/me/a/b"));
    assert_eq!(paths[""], root.path().join("unified/a/b"));
    let again: HostCgroup = serde_json::from_str(&serde_json::to_string(&cgroup).unwrap()).unwrap();
    assert_eq!(again, cgroup);
    again.remove().unwrap();
    assert!(!paths["memory"].exists() && paths["memory"].parent().unwrap().exists());
    again.remove().unwrap();
}

#[test]
fn a_failure_leaves_no_cgroup() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), true);
    let spec = spec("/a/b", json!({"cpu": {"shares": 5}}));
    let error = create_in(&hierarchies, &spec).unwrap_err();
    assert!(error.to_string().contains("no controller `cpu`"), "{error}");
    assert!(root.path().join("unified/a").exists() && !root.path().join("unified/a/b").exists());
}

#[test]
fn cpu_time_is_limited_later() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), true);
    let leaf = root.path().join("unified/x");
    fs::create_dir(&leaf).unwrap();
    ["cpu.max", "cpu.weight"].iter().for_each(|file| fs::write(leaf.join(file), "").unwrap());
    let spec = spec("/x", json!({"cpu": {"shares": 512, "quota": 5000}}));
    let cgroup = create_in(&hierarchies, &spec).unwrap();
    let read = |file: &str| fs::read_to_string(leaf.join(file)).unwrap();
    assert_eq!((read("cpu.weight").as_str(), read("cpu.max").as_str()), ("20", ""));
    fs::write(leaf.join("cpu.weight"), "").unwrap();
    cgroup.limit_cpu_time(&spec).unwrap();
    assert_eq!((read("cpu.weight").as_str(), read("cpu.max").as_str()), ("", "5000 100000"));
    cgroup.lift_cpu_time();
    assert_eq!(read("cpu.max"), "5000 100000", "it was there before");
}

#[test]
fn one_that_was_there_stays_with_what_is_in_it() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), true);
    let leaf = root.path().join("unified/x");
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("memory.events"), "oom 3\noom_kill 2\noom_group_kill 1\n").unwrap();
    let cgroup = create_in(&hierarchies, &spec("/x", Value::Null)).unwrap();
    assert_eq!(cgroup.oom_kills(), 2);
    cgroup.remove().unwrap();
    assert!(leaf.exists());
}

#[test]
fn what_is_left_of_one_that_was_being_made_goes() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), false);
    let spec = spec("/a/b", Value::Null);
    let wanted = place::wanted(spec.linux().as_ref().unwrap().cgroups_path().as_deref(), "id", false).unwrap();
    let others = root.path().join("cpu/a/b");
    fs::create_dir_all(&others).unwrap();
    let planned = Planned { wanted, hierarchies, overhead: OVERHEAD, by_systemd: false };
    let remains = planned.remains().unwrap();
    assert!(!remains.has_processes());
    let made = create_in(&planned.hierarchies, &spec).unwrap();
    let kept: HostCgroup = serde_json::from_str(&serde_json::to_string(&remains).unwrap()).unwrap();
    kept.remove().unwrap();
    assert!(others.exists(), "it was there before");
    assert_eq!(made.places.iter().filter(|place| place.path.exists()).count(), 1);
    assert!(Planned { by_systemd: true, ..planned }.remains().is_none());
}

#[test]
fn a_limit_of_v1_is_lowered_for_a_moment() {
    let root = tempfile::tempdir().unwrap();
    let hierarchies = fake(root.path(), false);
    let cgroup = create_in(&hierarchies, &spec("/a", Value::Null)).unwrap();
    let directory = cgroup.place("memory").unwrap().path.clone();
    let limit = directory.join("memory.limit_in_bytes");
    fs::write(&limit, "9223372036854771712\n").unwrap();
    fs::write(directory.join("memory.usage_in_bytes"), "4096\n").unwrap();
    assert!(cgroup.starve(false).unwrap().is_none());
    let barren = cgroup.starve(true).unwrap().unwrap();
    fs::write(&limit, "").unwrap();
    exhaust(&directory).unwrap();
    assert_eq!(fs::read_to_string(&limit).unwrap(), (4096 + (1 << 20)).to_string());
    fs::write(&limit, "").unwrap();
    drop(barren);
    assert_eq!(fs::read_to_string(&limit).unwrap(), "9223372036854771712");
}

/// Ends the process and, should the test have failed, lets the cgroup go.
struct Sleeper<'a>(std::process::Child, &'a HostCgroup);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = self.1.remove();
    }
}

/// On the machine's own cgroups, where they may be written.
#[test]
fn a_process_lives_and_dies_in_a_real_one() {
    let spec = spec("", json!({"cpu": {"shares": 512}}));
    let id = format!("sandbox-test-{}", std::process::id());
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let cgroup = match Planned::new(&spec, &id, false, OVERHEAD).and_then(|planned| planned.make(&spec, &id, pid)) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            child.kill().unwrap();
            child.wait().unwrap();
            return eprintln!("not tested: {error}");
        }
    };
    let sleeper = Sleeper(child, &cgroup);
    let own = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap();
    let found = own.lines().filter(|line| line.ends_with(&id)).count();
    assert_eq!(found, cgroup.places.len(), "{own}");
    let cpu = cgroup.place("cpu").unwrap().path.join(if cgroup.unified { "cpu.weight" } else { "cpu.shares" });
    assert_eq!(fs::read_to_string(cpu).unwrap().trim(), if cgroup.unified { "20" } else { "512" });
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| cgroup.remove());
        std::thread::sleep(std::time::Duration::from_millis(50));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        removal.join().unwrap().unwrap();
    });
    assert!(cgroup.places.iter().all(|place| !place.path.exists()));
    drop(sleeper);
}

#[test]
fn an_update_leaves_the_other_half() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("cpu.max"), "50000 200000\n").unwrap();
    fs::write(directory.path().join("memory.max"), format!("{}\n", 3 << 20)).unwrap();
    let places = vec![Place { path: directory.path().to_owned(), controllers: Vec::new(), made: false }];
    let cgroup = HostCgroup { unified: true, overhead: OVERHEAD, places, scope: None };
    let completed = |json: Value| cgroup.completed(&serde_json::from_value(json).unwrap());
    let cpu = |json: Value| completed(json).cpu().as_ref().map(|cpu| (cpu.quota(), cpu.period()));
    assert_eq!(cpu(json!({"cpu": {"period": 7}})), Some((Some(50_000), Some(7))));
    assert_eq!(cpu(json!({"cpu": {"quota": -1}})), Some((Some(-1), Some(200_000))));
    assert_eq!(cpu(json!({"cpu": {"shares": 5}})), Some((None, None)));
    let limit = |json: Value| completed(json).memory().and_then(|memory| memory.limit());
    assert_eq!(limit(json!({"memory": {"swap": 9 << 20}})), Some(2 << 20), "without the overhead");
    assert_eq!(limit(json!({"memory": {"reservation": 1}})), None);
}

/// What the guest has had comes back later than its limit falls.
#[test]
fn an_update_leaves_what_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let set = |file: &str, mib: u64| fs::write(directory.path().join(file), format!("{}\n", mib << 20)).unwrap();
    let get = || fs::read_to_string(directory.path().join("memory.max")).unwrap();
    set("memory.current", 5000);
    set("memory.max", 9000);
    let places = vec![Place { path: directory.path().to_owned(), controllers: Vec::new(), made: false }];
    let cgroup = HostCgroup { unified: true, overhead: OVERHEAD, places, scope: None };
    let limit = |mib: u64| {
        let resources = json!({ "memory": { "limit": mib << 20 } });
        cgroup.update(&serde_json::from_value(resources).unwrap()).unwrap();
        get().trim_end().parse::<u64>().unwrap() >> 20
    };
    assert_eq!(limit(6000), 6001);
    assert_eq!(limit(1000), 5064);
    set("memory.max", 5010);
    assert_eq!(limit(1000), 5010, "no more than there was");
    set("memory.current", 2000);
    assert_eq!(limit(1000), 2064);
    assert_eq!(cgroup.guest_memory(), Some(0));
    fs::write(directory.path().join("memory.max"), "max\n").unwrap();
    assert_eq!(cgroup.guest_memory(), None);
}
