use std::time::Instant;

use serde_json::{Value, json};

use super::*;

fn good() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]}
    })
}

fn load(text: &str) -> Result<Bundle, BundleError> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.json"), text).unwrap();
    Bundle::load(directory.path())
}

/// The error's text when the value at `pointer` is replaced, or added.
fn refusal(section: &str, key: &str, value: Value) -> String {
    let mut config = good();
    match section {
        "" => config[key] = value,
        section => config[section][key] = value,
    }
    load(&config.to_string()).unwrap_err().to_string()
}

#[test]
fn a_good_bundle_is_accepted() {
    let bundle = load(&good().to_string()).unwrap();
    assert!(bundle.directory.is_absolute());
    assert_eq!(bundle.spec.process().as_ref().unwrap().args().as_ref().unwrap(), &["sh"]);
}

#[test]
fn names_in_another_case_are_taken_and_repaired() {
    let text = r#"{"OciVersion": "1.0.2", "Root": {"Path": "rootfs"}, "LINUX": {"Namespaces": [{"Type": "mount"}]},
        "Process": {"Args": ["sh"], "cwd": "/", "User": null, "Capabilities": {"Bounding": ["CAP_KILL", "CAP_UNHEARD_OF"]}}}"#;
    let bundle = load(text).unwrap();
    let process = bundle.spec.process().as_ref().unwrap();
    assert_eq!((process.args().as_deref().unwrap(), process.user().uid()), (&["sh".to_string()][..], 0));
    assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
    let twice = load(r#"{"ociVersion": "1.0.2", "root": {"path": "a"}, "Root": {"path": "b"}}"#).unwrap_err();
    assert!(twice.to_string().contains("duplicate field `root`"), "{twice}");
}

#[test]
fn missing_config_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let text = Bundle::load(directory.path()).unwrap_err().to_string();
    assert!(
        text.ends_with("config.json: no such file or directory; name the bundle's directory with --bundle"),
        "{text}"
    );
    let text = Bundle::load(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(text.starts_with("/nonexistent: no such file or directory"), "{text}");
}

#[test]
fn broken_json_names_line_and_column() {
    let text = load("{\n  \"ociVersion\": \"1.0.2\",\n  nonsense\n}").unwrap_err().to_string();
    assert!(text.ends_with("config.json, line 3, column 3: key must be a string"), "{text}");
    let text = load("{\"ociVersion\": 7}").unwrap_err().to_string();
    assert!(text.contains("line 1, column 16: ociVersion: invalid type: integer `7`, expected a string"), "{text}");
    assert!(load("{").unwrap_err().to_string().contains("line 1, column 1: EOF"));
    assert!(load("").is_err());
}

#[test]
fn what_is_missing_is_named() {
    for field in ["root", "process", "ociVersion"] {
        let mut config = good();
        config.as_object_mut().unwrap().remove(field);
        let text = load(&config.to_string()).unwrap_err().to_string();
        assert_eq!(text, format!("{field} is missing in config.json"));
    }
    assert_eq!(refusal("process", "args", json!([])), "process.args is missing in config.json");
    assert_eq!(refusal("root", "path", json!("")), "root.path is missing in config.json");
    assert!(refusal("process", "args", json!([""])).starts_with("process.args[0] in config.json: "));
    assert!(refusal("process", "args", json!(["a\0b"])).contains("NUL"));
    assert!(refusal("process", "cwd", json!("tmp")).starts_with("process.cwd in config.json: "));
}

#[test]
fn versions() {
    for version in ["1.0.0", "1.2.1", "1.0.2-dev", "1.1.0+dev"] {
        check::version(version).unwrap();
    }
    for version in ["2.0.0", "0.9.0", "1", "1.x.0", "one", "1.0.0.0", "1..0"] {
        assert!(check::version(version).unwrap_err().to_string().contains(version));
    }
}

#[test]
fn seccomp_notify_is_refused() {
    let rule = json!({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"});
    let text = refusal("linux", "seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    assert!(text.starts_with("linux.seccomp.syscalls[0].action in config.json is not supported"), "{text}");
    let text = refusal("linux", "seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}));
    assert!(text.starts_with("linux.seccomp.listenerPath"), "{text}");
}

/// The error's text when the value at the JSON pointer is replaced, or added.
fn refused(pointer: &str, value: Value) -> String {
    let mut config = good();
    set(&mut config, pointer, value);
    load(&config.to_string()).unwrap_err().to_string()
}

fn set(config: &mut Value, pointer: &str, value: Value) {
    let mut place = config;
    for step in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
            other => &mut other[step],
        };
    }
    *place = value;
}

#[test]
fn unsupported_fields_are_refused_by_name() {
    for (pointer, value, expected) in [
        ("/solaris", json!({}), "solaris"),
        ("/windows", json!({"layerFolders": ["c"]}), "windows"),
        ("/zos", json!({}), "zos"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
        ("/linux/resources", json!({"rdma": {"mlx5_0": {"hcaHandles": 3}}}), "linux.resources.rdma"),
        ("/linux/namespaces/0", json!({"type": "mount", "path": "/proc/1/ns/mnt"}), "linux.namespaces[0].path"),
        ("/vm", json!({"kernel": {"path": ""}, "hypervisor": {"path": "/h"}}), "vm.hypervisor"),
        ("/vm", json!({"kernel": {"path": ""}, "image": {"path": "/i", "format": "raw"}}), "vm.image"),
    ] {
        let text = refused(pointer, value);
        assert!(text.starts_with(&format!("{expected} in config.json is not supported")), "{text}");
    }
}

#[test]
fn values_that_cannot_be_are_named() {
    let rlimit = |kind: &str, soft: u64| json!({"type": kind, "soft": soft, "hard": 10});
    let memory = |key: &str, value: i64| json!({"memory": {key: value}});
    let rule = |key: &str, value: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", key: value}]});
    for (pointer, value, field) in [
        ("/process/rlimits", json!([rlimit("RLIMIT_CPU", 1), rlimit("RLIMIT_CPU", 1)]), "process.rlimits[1].type"),
        ("/process/rlimits", json!([rlimit("RLIMIT_CPU", 11)]), "process.rlimits[0].soft"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/env", json!(["A=b", "NAME"]), "process.env[1]"),
        ("/process/env", json!(["=b"]), "process.env[0]"),
        ("/process/args/0", json!("a\0b"), "process.args[0]"),
        ("/process/cwd", json!(""), "process.cwd"),
        ("/process/user/uid", json!(u32::MAX), "process.user.uid"),
        ("/process/user/additionalGids", json!([1, 1u64 << 31]), "process.user.additionalGids[1]"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "process.ioPriority.priority"),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice"),
        ("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": -1}), "process.scheduler.priority"),
        ("/process/scheduler", json!({"policy": "SCHED_FIFO", "period": 1}), "process.scheduler.period"),
        ("/process/consoleSize", json!({"height": 70000, "width": 1}), "process.consoleSize.height"),
        ("/hostname", json!("a".repeat(65)), "hostname"),
        ("/domainname", json!("a\0"), "domainname"),
        ("/annotations", json!({"": "x"}), "annotations"),
        ("/mounts", json!([{"destination": ""}]), "mounts[0].destination"),
        ("/mounts", json!([{"destination": "/a", "options": ["a\0b"]}]), "mounts[0].options[0]"),
        ("/hooks", json!({"poststop": [{"path": "x"}]}), "hooks.poststop[0].path"),
        ("/hooks", json!({"prestart": [{"path": "/x", "timeout": 0}]}), "hooks.prestart[0].timeout"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces"),
        ("/linux/namespaces/2/type", json!("uts"), "linux.namespaces[2].type"),
        ("/linux/namespaces/2", json!({"type": "network", "path": "net"}), "linux.namespaces[2].path"),
        ("/linux/namespaces/2", json!({"type": "user", "path": "user"}), "linux.namespaces[2].path"),
        ("/linux/namespaces/1", json!({"type": "time", "path": "time"}), "linux.namespaces[1].path"),
        ("/linux/namespaces/2/type", json!("user"), "linux.uidMappings"),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]), "linux.uidMappings"),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), "linux.timeOffsets"),
        ("/linux/netDevices", json!({"a/b": {}}), "linux.netDevices"),
        ("/linux/netDevices", json!({"eth0": {"name": "sixteen-bytes-16"}}), "linux.netDevices"),
        ("/linux/netDevices", json!({"eth0": {}, "eth1": {"name": "eth0"}}), "linux.netDevices"),
        ("/linux/timeOffsets", json!({"realtime": {"secs": 1}}), "linux.timeOffsets.realtime"),
        ("/linux/timeOffsets", json!({"boottime": {"nanosecs": 1_000_000_000}}), "linux.timeOffsets.boottime.nanosecs"),
        ("/linux/devices", json!([{"path": "", "type": "c"}]), "linux.devices[0].path"),
        ("/linux/devices", json!([{"path": "/d", "type": "a"}]), "linux.devices[0].type"),
        ("/linux/devices", json!([{"path": "/d", "type": "c", "major": -1}]), "linux.devices[0].major"),
        ("/linux/devices", json!([{"path": "/d", "type": "b", "minor": 1 << 20}]), "linux.devices[0].minor"),
        ("/linux/rootfsPropagation", json!("public"), "linux.rootfsPropagation"),
        ("/linux/sysctl", json!({"net/../../etc": "1"}), "linux.sysctl.net/../../etc"),
        ("/linux/sysctl", json!({"net..x": "1"}), "linux.sysctl.net..x"),
        ("/linux/maskedPaths", json!(["/a", "x".repeat(5000)]), "linux.maskedPaths[1]"),
        ("/linux/resources", memory("limit", -5), "linux.resources.memory.limit"),
        ("/linux/resources", json!({"cpu": {"cpus": "a-b"}}), "linux.resources.cpu.cpus"),
        ("/linux/resources", json!({"cpu": {"idle": 2}}), "linux.resources.cpu.idle"),
        ("/linux/resources", json!({"blockIO": {"weight": 9}}), "linux.resources.blockIO.weight"),
        ("/linux/resources", json!({"unified": {"memory": "1"}}), "linux.resources.unified.memory"),
        ("/linux/resources", json!({"unified": {"../cpu.max": "1"}}), "linux.resources.unified.../cpu.max"),
        (
            "/linux/resources",
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -1}]}),
            "linux.resources.hugepageLimits[0].limit",
        ),
        ("/linux/seccomp", rule("errnoRet", json!(4096)), "linux.seccomp.syscalls[0].errnoRet"),
        (
            "/linux/seccomp",
            rule("args", json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}])),
            "linux.seccomp.syscalls[0].args[0].index",
        ),
        ("/vm", json!({"kernel": {"path": "/k"}}), "vm.kernel.path"),
    ] {
        let text = refused(pointer, value);
        assert!(text.starts_with(&format!("{field} in config.json: ")), "{field}: {text}");
    }
}

#[test]
fn wrong_types_are_located_and_named() {
    for (pointer, value, words) in [
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_FOO", "hard": 1, "soft": 1}]),
            "process.rlimits[0].type: unknown variant `RLIMIT_FOO`",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "hard": -1, "soft": 1}]),
            "process.rlimits[0].hard: invalid value: integer `-1`",
        ),
        ("/process/terminal", json!("yes"), "process.terminal: invalid type: string \"yes\", expected a boolean"),
        ("/process/args", json!("sh"), "process.args: invalid type: string \"sh\", expected a sequence"),
        ("/process/user/uid", json!(-1), "process.user.uid: invalid value: integer `-1`, expected u32"),
        ("/linux/namespaces/1/type", json!("foo"), "linux.namespaces[1].type: unknown variant `foo`"),
        ("/linux/resources", json!({"pids": {"limit": "1"}}), "linux.resources.pids.limit: invalid type"),
        ("/linux/sysctl", json!({"a.b": 1}), "linux.sysctl.a.b: invalid type: integer `1`, expected a string"),
        ("/mounts", json!([{"type": "tmpfs"}]), "mounts[0]: missing field `destination`"),
        ("/annotations", json!({"a": 5}), "annotations.a: invalid type"),
        ("/linux/seccomp", json!({"defaultAction": "FOO"}), "linux.seccomp.defaultAction: unknown variant `FOO`"),
    ] {
        let text = refused(pointer, value);
        assert!(text.contains("config.json, line 1, column ") && text.contains(words), "{text}");
    }
}

#[test]
fn sizes_are_bounded() {
    let long = "x".repeat(1 << 20);
    let many = |value: Value| Value::Array(vec![value; 1_000_000]);
    for (pointer, value, field) in [
        ("/hostname", json!(long), "hostname"),
        ("/process/args/0", json!(long), "process.args[0]"),
        ("/process/env", json!([format!("A={long}")]), "process.env[0]"),
        ("/process/cwd", json!(format!("/{long}")), "process.cwd"),
        ("/root/path", json!(long), "root.path"),
        ("/process/rlimits", json!([{"type": long, "hard": 1, "soft": 1}]), "process.rlimits[0].type"),
        ("/process/args", many(json!("a")), "process.args"),
        ("/process/user/additionalGids", many(json!(1)), "process.user.additionalGids"),
        ("/linux/namespaces", many(json!({})), "linux.namespaces"),
        ("/mounts", Value::Array(vec![json!({"destination": "/a"}); 5000]), "mounts"),
        ("/linux/maskedPaths", Value::Array(vec![json!("/a"); 5000]), "linux.maskedPaths"),
    ] {
        let begin = Instant::now();
        let text = refused(pointer, value);
        assert!(text.starts_with(&format!("{field} in config.json: ")) && text.len() < 500, "{field}: {text}");
        assert!(begin.elapsed().as_secs() < 20, "{field}");
    }
    let middle = "y".repeat(100_000);
    let text = refused("/linux/seccomp", json!({"defaultAction": middle}));
    assert!(text.contains("linux.seccomp.defaultAction: unknown variant") && text.len() < 1000, "{text}");
    assert!(
        refused("/annotations", json!({"a": "x".repeat(4 << 20)}))
            .ends_with("larger than 3 MiB, which the guest's agent does not take")
    );
    assert!(
        load(&" ".repeat(17 << 20)).unwrap_err().to_string().ends_with("larger than 16 MiB, which no configuration is")
    );
    for count in [100_000, 1_000_000] {
        let nested = format!("{{\"x\":{}", "[".repeat(count));
        assert!(load(&nested).unwrap_err().to_string().contains("config.json, line 1, column "));
    }
    let mut config = good();
    config["annotations"] = json!({"large": "x".repeat(1 << 20)});
    load(&config.to_string()).unwrap();
}

#[test]
fn only_a_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    let text = Bundle::load(directory.path()).unwrap_err().to_string();
    assert!(text.ends_with("config.json: not a regular file"), "{text}");
}

#[test]
fn what_others_accept_is_accepted() {
    for (pointer, value) in [
        ("/hooks", json!({"prestart": [], "poststop": [{"path": "/x", "timeout": 5}]})),
        ("/linux/netDevices", json!({})),
        (
            "/linux",
            json!({"namespaces": [{"type": "mount"}, {"type": "network"}],
                "netDevices": {"eth0": {}, "eth1": {"name": "c0"}, "eth2": {"name": ""}}}),
        ),
        ("/mounts", Value::Null),
        ("/mounts", json!([{"destination": "relative", "type": "tmpfs"}])),
        ("/process/user", Value::Null),
        ("/process/consoleSize", json!({"height": 0, "width": 0})),
        ("/linux/namespaces/2", json!({"type": "network", "path": "/run/netns/a"})),
        ("/linux/timeOffsets", json!({})),
        ("/linux/resources", json!({"memory": {"limit": -1, "swap": -1}, "blockIO": {"weight": 0}})),
        ("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}], "cpu": {"cpus": "0-1,3"}})),
        ("/linux/rootfsPropagation", json!("rslave")),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "1"})),
        ("/linux/uidMappings", json!([])),
        ("/unknown", json!({"deep": [1, null]})),
        ("/linux/unknown", json!(1)),
        ("/hostname", json!("host")),
    ] {
        let mut config = good();
        set(&mut config, pointer, value);
        load(&config.to_string()).unwrap_or_else(|error| panic!("{pointer}: {error}"));
    }
}

#[test]
fn unknown_capabilities_are_left_out() {
    let mut config = good();
    config["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_OF_TOMORROW"], "ambient": null});
    let bundle = load(&config.to_string()).unwrap();
    let capabilities = bundle.spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    // Another mistake beside it is named.
    config["process"]["capabilities"]["effective"] = json!([7]);
    let text = load(&config.to_string()).unwrap_err().to_string();
    assert!(text.contains("process.capabilities.effective[0]"), "{text}");
    config["process"]["capabilities"] = json!({"bounding": ["CAP_OF_TOMORROW"]});
    config["hostname"] = json!(1);
    let text = load(&config.to_string()).unwrap_err().to_string();
    assert!(text.contains("hostname"), "{text}");
}

#[test]
fn labels_and_profiles_have_no_effect() {
    let mut config = good();
    config["process"]["apparmorProfile"] = json!("docker-default");
    config["process"]["selinuxLabel"] = json!("a:b:c");
    config["linux"]["mountLabel"] = json!("a:b:c");
    config["hostname"] = json!("");
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let spec = load(&config.to_string()).unwrap().spec;
    let process = spec.process().as_ref().unwrap();
    assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
    assert!(spec.linux().as_ref().unwrap().mount_label().is_none() && spec.hostname().is_none());
}

#[test]
fn names_need_a_namespace() {
    for field in ["hostname", "domainname"] {
        let mut config = good();
        config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        config[field] = json!("name");
        let text = load(&config.to_string()).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("{field} in config.json: it cannot be set without a private UTS namespace")),
            "{text}"
        );
    }
}

#[test]
fn the_vm_section_asks_for_what_is_listed() {
    let mut settings = Settings::default();
    settings.vm.kernels = vec!["/k".into()];
    settings.vm.initrds = vec!["/i".into()];
    settings.vm.parameters = vec!["quiet".into(), "loglevel=".into()];
    let ask = |kernel: Value| {
        let mut config = good();
        config["vm"] = json!({"kernel": kernel});
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        Bundle::load_with(directory.path(), &settings).map(|bundle| bundle.vm).map_err(|error| error.to_string())
    };
    let all = ask(json!({"path": "/k", "initrd": "/i", "parameters": ["quiet", "loglevel=7"]})).unwrap();
    let expected =
        VmRequest { kernel: Some("/k".into()), initramfs: Some("/i".into()), parameters: "quiet loglevel=7".into() };
    assert_eq!(all, expected);
    assert_eq!(ask(json!({"path": "/k"})).unwrap().initramfs, None);
    for (kernel, start) in [
        (
            json!({"path": "/k/../k"}),
            "vm.kernel.path in config.json: /k/../k is not allowed on this machine: vm.kernels in the settings does not name it",
        ),
        (
            json!({"path": "/k", "initrd": "/x"}),
            "vm.kernel.initrd in config.json: /x is not allowed on this machine: vm.initrds",
        ),
        (
            json!({"path": "/k", "parameters": ["init=/x"]}),
            "vm.kernel.parameters[0] in config.json: init=/x is not allowed on this machine: vm.parameters",
        ),
        (
            json!({"path": "/k", "parameters": ["quiet", "loglevel=7 init=/x"]}),
            "vm.kernel.parameters[1] in config.json: one parameter has no space",
        ),
        (json!({"path": "/k", "parameters": ["quietly"]}), "vm.kernel.parameters[0]"),
    ] {
        let text = ask(kernel).unwrap_err();
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn limits_of_cgroup_v1_are_refused() {
    for (resources, field) in [
        (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 1, "minor": 2, "leafWeight": 10}]}}),
            "blockIO.weightDevice[0].leafWeight",
        ),
        (json!({"network": {"classID": 1}}), "network.classID"),
        (json!({"network": {"priorities": [{"name": "eth0", "priority": 1}]}}), "network.priorities"),
    ] {
        let text = refused("/linux/resources", resources);
        assert!(
            text.starts_with(&format!("linux.resources.{field} in config.json is not supported (there is no")),
            "{text}"
        );
    }
    let mut config = good();
    let nothing = json!({"memory": {}, "cpu": {}, "network": {}, "rdma": {}});
    config["linux"]["resources"] = nothing;
    load(&config.to_string()).unwrap();
}

#[test]
fn limits_of_realtime_have_no_effect() {
    let mut config = good();
    config["linux"]["resources"] = json!({"cpu": {"realtimeRuntime": 950_000, "realtimePeriod": 1_000_000}});
    load(&config.to_string()).unwrap();
}

#[test]
fn limits_of_kernel_memory_have_no_effect() {
    let mut config = good();
    config["linux"]["resources"] = json!({"memory": {"kernel": 50593792, "kernelTCP": 50593792}});
    load(&config.to_string()).unwrap();
}

#[test]
fn switches_of_v1s_memory_are_taken() {
    let mut config = good();
    config["linux"]["resources"] = json!({"memory": {"swappiness": 0, "disableOOMKiller": true}});
    load(&config.to_string()).unwrap();
    let text = refused("/linux/resources", json!({"memory": {"swappiness": 101}}));
    assert!(text.starts_with("linux.resources.memory.swappiness in config.json"), "{text}");
}

#[test]
fn fields_of_other_systems_have_no_effect() {
    let mut config = good();
    config["process"]["commandLine"] = json!("cmd.exe");
    config["process"]["user"]["username"] = json!("somebody");
    config["linux"]["resources"] = json!({"memory": {"useHierarchy": true, "checkBeforeUpdate": true}});
    load(&config.to_string()).unwrap();
}
