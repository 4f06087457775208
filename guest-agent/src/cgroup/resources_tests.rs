use super::*;

const GUEST: Guest = Guest { cpus: 2, has_device: |name| name.starts_with("8:"), bfq: false };

fn settings_of(json: &str) -> Result<Vec<String>, String> {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let settings = settings(&resources, &GUEST).map_err(|e| e.to_string())?;
    Ok(settings.into_iter().map(|(file, value)| format!("{file}={value}")).collect())
}

#[test]
fn memory_and_swap() {
    let set = settings_of(r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#).unwrap();
    assert_eq!(set, ["memory.swap.max=500", "memory.max=1000", "memory.low=500"]);
    assert_eq!(settings_of(r#"{"memory":{"limit":-1}}"#).unwrap(), ["memory.swap.max=max", "memory.max=max"]);
    assert!(settings_of(r#"{"memory":{"swap":100}}"#).unwrap_err().contains("memory.swap"));
}

#[test]
fn what_only_v1_has_is_left_out() {
    let json = r#"{"memory":{"kernel":1,"kernelTCP":1,"swappiness":60,"disableOOMKiller":true,"useHierarchy":true},
        "cpu":{"realtimeRuntime":1,"realtimePeriod":1},"network":{"classID":5,"priorities":[{"name":"eth0","priority":1}]},
        "blockIO":{"leafWeight":10}}"#;
    assert_eq!(settings_of(json).unwrap(), [""; 0]);
}

#[test]
fn host_numbers_become_the_guests() {
    let set = settings_of(r#"{"cpu":{"cpus":"6-9","mems":"1"},"unified":{"cpuset.cpus":"1"}}"#).unwrap();
    assert_eq!(set, ["cpuset.cpus=0,1", "cpuset.mems=0", "cpuset.cpus=1"]);
    assert!(settings_of(r#"{"cpu":{"cpus":"x"}}"#).unwrap_err().contains("cpu.cpus"));
    assert!(settings_of(r#"{"cpu":{"mems":"-"}}"#).unwrap_err().contains("cpu.mems"));
    let json = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":259,"minor":0,"rate":10}],
        "weightDevice":[{"major":259,"minor":0,"weight":10}]},"unified":{"io.max":"259:0 rbps=1"}}"#;
    assert_eq!(settings_of(json).unwrap(), [""; 0]);
}

#[test]
fn cpu_time_and_cpus() {
    let set =
        settings_of(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","mems":"0"}}"#);
    let expected = ["cpu.weight=39", "cpu.max=50000 100000", "cpu.max.burst=1000", "cpuset.cpus=0,1", "cpuset.mems=0"];
    assert_eq!(set.unwrap(), expected);
    assert_eq!(settings_of(r#"{"cpu":{"quota":-1}}"#).unwrap(), ["cpu.max=max 100000"]);
    assert_eq!(settings_of(r#"{"cpu":{"idle":1,"shares":2}}"#).unwrap(), ["cpu.idle=1"]);
}

#[test]
fn block_io_and_the_rest() {
    let json = r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":10}],
        "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":0}]},"pids":{"limit":-1},
        "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],"unified":{"memory.high":"10","io.max":"8:0 rbps=1\n8:1 wbps=2"}}"#;
    let expected = [
        "pids.max=max",
        "io.weight=default 4950",
        "io.max=8:0 rbps=10",
        "io.max=8:1 wiops=max",
        "hugetlb.2MB.max=4194304",
        "hugetlb.2MB.rsvd.max=4194304",
        "io.max=8:0 rbps=1",
        "io.max=8:1 wbps=2",
        "memory.high=10",
    ];
    assert_eq!(settings_of(json).unwrap(), expected);
}

#[test]
fn files_that_are_no_limits_are_refused() {
    for file in ["cgroup.procs", "../memory.max", "x/memory.max", "plain", ".memory"] {
        let json = format!(r#"{{"unified":{{"{file}":"1"}}}}"#);
        assert!(settings_of(&json).unwrap_err().contains("unified"), "{file}");
    }
    assert!(settings_of(r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#).is_err());
}

#[test]
fn devices_that_no_guest_has_are_refused() {
    let set = settings_of(r#"{"rdma":{"mlx5_0":{"hcaHandles":3,"hcaObjects":7}}}"#);
    assert_eq!(set.unwrap_err(), "linux.resources.rdma: a guest has no RDMA device");
    assert_eq!(settings_of(r#"{"rdma":{}}"#).unwrap(), [""; 0]);
}

#[test]
fn bfq_takes_the_weights_as_they_are() {
    let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10},{"major":9,"minor":0,"weight":5}]}}"#;
    let set = settings(&serde_json::from_str(json).unwrap(), &Guest { bfq: true, ..GUEST }).unwrap();
    let expected = [("io.bfq.weight", "default 500"), ("io.bfq.weight", "8:0 10")];
    assert_eq!(set, expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
    assert_eq!(settings_of(json).unwrap(), ["io.weight=default 4950", "io.weight=8:0 1"]);
}
