use super::*;

fn settings_of(json: &str) -> Result<Vec<String>, String> {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let settings = settings(&resources).map_err(|e| e.to_string())?;
    Ok(settings.into_iter().map(|(file, value)| format!("{file}={value}")).collect())
}

#[test]
fn memory_and_swap() {
    let set = settings_of(r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#).unwrap();
    assert_eq!(set, ["memory.max=1000", "memory.swap.max=500", "memory.low=500"]);
    assert_eq!(settings_of(r#"{"memory":{"limit":-1}}"#).unwrap(), ["memory.max=max"]);
    assert!(settings_of(r#"{"memory":{"kernel":1}}"#).unwrap_err().contains("memory.kernel"));
    assert!(settings_of(r#"{"memory":{"swappiness":60}}"#).is_err());
    assert!(settings_of(r#"{"memory":{"disableOOMKiller":true}}"#).is_err());
    assert_eq!(settings_of(r#"{"memory":{"disableOOMKiller":false}}"#).unwrap(), [""; 0]);
}

#[test]
fn cpu_time_and_cpus() {
    let set =
        settings_of(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","mems":"0"}}"#);
    let expected = ["cpu.weight=39", "cpu.max=50000 100000", "cpu.max.burst=1000", "cpuset.cpus=0-1", "cpuset.mems=0"];
    assert_eq!(set.unwrap(), expected);
    assert_eq!(settings_of(r#"{"cpu":{"quota":-1}}"#).unwrap(), ["cpu.max=max 100000"]);
    assert_eq!(settings_of(r#"{"cpu":{"idle":1,"shares":2}}"#).unwrap(), ["cpu.idle=1"]);
    assert!(settings_of(r#"{"cpu":{"realtimeRuntime":1}}"#).is_err());
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
    assert!(settings_of(r#"{"network":{"classID":5}}"#).is_err());
}

#[test]
fn rdma_limits() {
    let set = settings_of(r#"{"rdma":{"mlx5_0":{"hcaHandles":3,"hcaObjects":7}}}"#).unwrap();
    assert_eq!(set, ["rdma.max=mlx5_0 hca_handle=3 hca_object=7"]);
}
