use super::*;

const OVERHEAD: Overhead = Overhead { above_limit: 1000, least: 3000, start: 0 };

fn settings_of(unified: bool, files: &[&str], json: &str) -> Result<Vec<String>, String> {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let host = Host { unified, overhead: OVERHEAD, has_file: &|_, file| files.contains(&file) };
    let settings = settings(&resources, &host).map_err(|e| e.to_string())?;
    Ok(settings.into_iter().map(|s| format!("{}={}", s.file, s.value)).collect())
}

fn v1(json: &str) -> Vec<String> {
    settings_of(false, &[], json).unwrap()
}

fn v2(json: &str) -> Vec<String> {
    settings_of(true, &[], json).unwrap()
}

#[test]
fn memory_has_room_for_the_machine() {
    let both = r#"{"memory":{"limit":4000,"swap":4500,"reservation":100}}"#;
    assert_eq!(v2(both), ["memory.max=5000", "memory.swap.max=500", "memory.low=1100"]);
    assert_eq!(
        v1(both),
        ["memory.limit_in_bytes=5000", "memory.memsw.limit_in_bytes=5500", "memory.soft_limit_in_bytes=1100"]
    );
    let swappiness = r#"{"memory":{"swappiness":0}}"#;
    assert_eq!((v1(swappiness), v2(swappiness)), (vec!["memory.swappiness=0".to_owned()], vec![]));
    let low = r#"{"memory":{"limit":10,"swap":10}}"#;
    assert_eq!(v2(low), ["memory.max=3000", "memory.swap.max=0"]);
    assert_eq!(v1(low), ["memory.limit_in_bytes=3000", "memory.memsw.limit_in_bytes=3000"]);
}

#[test]
fn no_limit_of_memory_is_none_on_the_host() {
    for none in ["{}", r#"{"memory":{}}"#, r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#] {
        assert!(v1(none).is_empty() && v2(none).is_empty());
    }
    let unlimited = r#"{"memory":{"limit":-1}}"#;
    assert_eq!(v2(unlimited), ["memory.max=max", "memory.swap.max=max"]);
    assert_eq!(v1(unlimited), ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]);
    assert_eq!(v1(r#"{"memory":{"limit":4000,"swap":-1}}"#)[1], "memory.memsw.limit_in_bytes=-1");
    assert!(settings_of(true, &[], r#"{"memory":{"swap":5}}"#).unwrap_err().contains("linux.resources.memory.swap"));
}

#[test]
fn cpu_is_as_given() {
    let json = r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","mems":"0"}}"#;
    assert_eq!(
        v2(json),
        ["cpu.weight=20", "cpu.max=50000 100000", "cpu.max.burst=1000", "cpuset.cpus=0-1", "cpuset.mems=0"]
    );
    let expected = [
        "cpu.shares=512",
        "cpu.cfs_period_us=100000",
        "cpu.cfs_quota_us=50000",
        "cpu.cfs_burst_us=1000",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
    ];
    assert_eq!(v1(json), expected);
    assert_eq!(v1(r#"{"cpu":{"idle":1,"shares":2,"cpus":""}}"#), ["cpu.idle=1"]);
    assert_eq!(v2(r#"{"cpu":{"idle":1,"shares":2,"quota":-1}}"#), ["cpu.idle=1", "cpu.max=max 100000"]);
}

#[test]
fn block_io_is_as_given() {
    let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":10}],"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]}}"#;
    assert_eq!(v2(json), ["io.weight=default 4950", "io.weight=8:0 1", "io.max=8:0 rbps=10", "io.max=8:1 wiops=max"]);
    assert_eq!(
        settings_of(true, &["io.bfq.weight"], json).unwrap()[..2],
        ["io.bfq.weight=default 500", "io.bfq.weight=8:0 10"]
    );
    let throttles = ["blkio.throttle.read_bps_device=8:0 10", "blkio.throttle.write_iops_device=8:1 0"];
    let bfq = v1(json);
    assert_eq!(bfq[..2], ["blkio.bfq.weight=500", "blkio.bfq.weight_device=8:0 10"]);
    assert_eq!(bfq[2..], throttles);
    let cfq = settings_of(false, &["blkio.weight"], json).unwrap();
    assert_eq!(cfq[..2], ["blkio.weight=500", "blkio.weight_device=8:0 10"]);
}

#[test]
fn what_would_meet_the_monitor_is_left_to_the_guest() {
    let json = r#"{"pids":{"limit":5},"devices":[{"allow":false,"access":"rwm"}],
        "hugepageLimits":[{"pageSize":"2MB","limit":0}],"network":{"classID":5},"rdma":{"mlx":{"hcaHandles":1}}}"#;
    assert!(v1(json).is_empty() && v2(json).is_empty());
}

#[test]
fn unified_counts_for_the_same_controllers() {
    let json = r#"{"unified":{"memory.high":"8K","memory.max":"max","memory.low":"5","memory.swap.max":"7","pids.max":"3",
        "io.max":"8:0 rbps=1\n8:1 wbps=2","cpuset.cpus":"0","hugetlb.2MB.max":"0","memory.oom.group":"1"}}"#;
    let expected = [
        "cpuset.cpus=0",
        "io.max=8:0 rbps=1",
        "io.max=8:1 wbps=2",
        "memory.high=9192",
        "memory.low=1005",
        "memory.max=max",
        "memory.oom.group=1",
        "memory.swap.max=7",
    ];
    assert_eq!(v2(json), expected);
    assert!(v1(json).is_empty(), "v1 has no such files; the guest does");
    assert!(settings_of(true, &[], r#"{"unified":{"memory.x/../../y":"1"}}"#).is_err());
}
