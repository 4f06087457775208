use super::*;
use crate::process::caps;

fn plan(extra_process: &str, extra: &str) -> Result<Plan, String> {
    let json = format!(
        r#"{{"ociVersion":"1.2.0","process":{{"user":{{"uid":0,"gid":0}},"args":["sh"],"cwd":"/"{extra_process}}},
            "root":{{"path":"/run/sandbox/share/rootfs"}}{extra}}}"#
    );
    Plan::new(json.as_bytes()).map_err(|e| e.to_string())
}

const NAMESPACES: &str = r#""namespaces":[{"type":"mount"},{"type":"pid"}]"#;

fn with_linux(fields: &str) -> Result<Plan, String> {
    plan("", &format!(r#","linux":{{{NAMESPACES}{fields}}}"#))
}

#[test]
fn a_small_config_is_enough() {
    let plan = with_linux("").unwrap();
    assert_eq!(plan.process.args, [c"sh".to_owned()]);
    assert_eq!(plan.namespaces.new, libc::CLONE_NEWNS | libc::CLONE_NEWPID);
    assert_eq!(plan.process.caps, caps::Sets::default());
    assert!(!plan.process.terminal() && !plan.read_only());
}

#[test]
fn what_has_no_effect_is_refused_by_name() {
    let process = |field: &str| plan(&format!(",{field}"), &format!(r#","linux":{{{NAMESPACES}}}"#)).err().unwrap();
    assert!(process(r#""apparmorProfile":"docker-default""#).contains("process.apparmorProfile"));
    assert!(process(r#""selinuxLabel":"x""#).contains("process.selinuxLabel"));
    let linux = |field: &str| with_linux(&format!(",{field}")).err().unwrap();
    assert!(linux(r#""intelRdt":{"closID":"a"}"#).contains("linux.intelRdt"));
    assert!(linux(r#""mountLabel":"x""#).contains("linux.mountLabel"));
    assert!(linux(r#""seccomp":{"defaultAction":"SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
    assert!(plan(r#","apparmorProfile":"""#, &format!(r#","linux":{{{NAMESPACES}}}"#)).is_ok());
}

#[test]
fn errors_name_the_field_or_the_place() {
    assert!(plan("", "").err().unwrap().contains("mount is missing"));
    let error = Plan::new(b"{\n  \"ociVersion\": 1}").err().unwrap().to_string();
    assert!(error.contains("line 2 column"), "{error}");
    let error = plan(r#","scheduler":{"policy":"SCHED_ISO"}"#, &format!(r#","linux":{{{NAMESPACES}}}"#)).err().unwrap();
    assert!(error.contains("process.scheduler.policy"));
    let io = |p: i64| {
        let process = format!(r#","ioPriority":{{"class":"IOPRIO_CLASS_BE","priority":{p}}}"#);
        plan(&process, &format!(r#","linux":{{{NAMESPACES}}}"#))
    };
    assert_eq!(io(4).unwrap().process.io_priority, Some((2, 4)));
    assert!(io(8).is_err() && io(-1).is_err());
}

#[test]
fn namespaces_must_make_sense_together() {
    let namespaces = |list: &str, more: &str| {
        plan("", &format!(r#","linux":{{"namespaces":[{list}]{more}}}"#)).map(|p| p.namespaces)
    };
    let joined = namespaces(r#"{"type":"mount"},{"type":"network","path":"/proc/1/ns/net"}"#, "").unwrap();
    assert_eq!(joined.joined, [(libc::CLONE_NEWNET, PathBuf::from("/proc/1/ns/net"))]);
    assert!(joined.is_own(libc::CLONE_NEWNET) && !joined.is_new(libc::CLONE_NEWNET));
    let joined =
        namespaces(r#"{"type":"mount"},{"type":"pid"},{"type":"user","path":"/run/sandbox/containers/x"}"#, "");
    assert!(joined.unwrap().joins(libc::CLONE_NEWUSER));
    let mount = namespaces(r#"{"type":"mount","path":"/run/sandbox/containers/x"}"#, "").unwrap_err();
    assert!(mount.contains("a mount namespace cannot be joined"), "{mount}");
    assert!(namespaces(r#"{"type":"mount"},{"type":"mount"}"#, "").is_err());
    assert!(namespaces(r#"{"type":"mount"},{"type":"user"}"#, "").unwrap_err().contains("uidMappings"));
    assert!(namespaces(r#"{"type":"mount"}"#, r#","timeOffsets":{"boottime":{"secs":1}}"#).is_err());
    assert!(plan("", &format!(r#","hostname":"x","linux":{{{NAMESPACES}}}"#)).err().unwrap().contains("UTS"));
}

#[test]
fn zero_bytes_and_empty_args_are_refused() {
    let json = r#"{"ociVersion":"1.2.0","process":{"user":{},"args":["a\u0000b"],"cwd":"/"},"root":{"path":"/r"}}"#;
    assert!(Plan::new(json.as_bytes()).err().unwrap().to_string().contains("process.args[0]"));
    let json = r#"{"ociVersion":"1.2.0","process":{"user":{},"cwd":"/"},"root":{"path":"/r"}}"#;
    assert!(Plan::new(json.as_bytes()).err().unwrap().to_string().contains("process.args is missing"));
    let json = r#"{"ociVersion":"1.2.0","process":{"user":{},"args":["a"],"cwd":"x"},"root":{"path":"/r"}}"#;
    assert!(Plan::new(json.as_bytes()).err().unwrap().to_string().contains("process.cwd"));
}

#[test]
fn capabilities_become_bits() {
    let caps = r#","capabilities":{"bounding":["CAP_CHOWN","CAP_CHECKPOINT_RESTORE"],"effective":["CAP_KILL"]}"#;
    let plan = plan(caps, &format!(r#","linux":{{{NAMESPACES}}}"#)).unwrap();
    assert_eq!(
        (plan.process.caps.bounding, plan.process.caps.effective, plan.process.caps.permitted),
        (1 | 1 << 40, 1 << 5, 0)
    );
}

#[test]
fn an_exec_takes_from_the_first_process_what_it_leaves_out() {
    let caps = r#","capabilities":{"bounding":["CAP_KILL"]},"oomScoreAdj":7,"noNewPrivileges":true"#;
    let first = plan(caps, &format!(r#","linux":{{{NAMESPACES}}}"#)).unwrap().process.given;
    let exec = ProcessPlan::exec(br#"{"args":["a"],"cwd":"/"}"#, &first).unwrap();
    assert_eq!((exec.caps.bounding, exec.given.oom_score_adj()), (1 << 5, Some(7)));
    assert!(!exec.no_new_privileges() && exec.given.user().umask().is_none());
    let mut masked = first.clone();
    masked.user_mut().set_umask(Some(0o077));
    let umask = |exec: &str| ProcessPlan::exec(exec.as_bytes(), &masked).unwrap().given.user().umask();
    assert_eq!(umask(r#"{"args":["a"],"cwd":"/"}"#), Some(0o077));
    assert_eq!(umask(r#"{"args":["a"],"cwd":"/","user":{"umask":0}}"#), Some(0));
    let own = br#"{"args":["a"],"cwd":"/","capabilities":{},"execCPUAffinity":{"initial":"1","final":"0-1"}}"#;
    let exec = ProcessPlan::exec(own, &first).unwrap();
    assert_eq!(exec.caps.bounding, 0);
    assert_eq!((exec.affinity.initial, exec.affinity.last), (Some(vec![1]), Some(vec![0, 1])));
    for bad in ["", "{}", "[]", r#"{"args":[],"cwd":"/"}"#, r#"{"args":["a"],"cwd":"x"}"#] {
        assert!(ProcessPlan::exec(bad.as_bytes(), &first).is_err(), "{bad}");
    }
}

#[test]
fn the_last_value_of_a_variable_counts() {
    let first = plan("", &format!(r#","linux":{{{NAMESPACES}}}"#)).unwrap().process.given;
    let exec = |env: &str| ProcessPlan::exec(format!(r#"{{"args":["a"],"cwd":"/","env":[{env}]}}"#).as_bytes(), &first);
    let env = exec(r#""A=1","HOME=/a","B=x=y","A=","HOME=","A=3""#).unwrap().env;
    assert_eq!(env, [c"A=3".to_owned(), c"HOME=".to_owned(), c"B=x=y".to_owned()]);
    for bad in [r#""A=1","A""#, r#""=b""#, r#""""#] {
        let text = exec(bad).err().unwrap().to_string();
        assert!(text.starts_with("process.env[") && text.ends_with("is not NAME=value"), "{text}");
    }
}

#[test]
fn scheduler_flags_have_the_specifications_names() {
    let flags = r#","scheduler":{"policy":"SCHED_BATCH","flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]}"#;
    let plan = plan(flags, &format!(r#","linux":{{{NAMESPACES}}}"#)).unwrap();
    assert_eq!(plan.process.scheduler.map(|s| s.flags), Some(0x05));
}

#[test]
fn a_joined_user_namespace_lends_its_mappings() {
    let list = |first| format!(r#"[{{"containerID":0,"hostID":{first},"size":10}}]"#);
    let with = |namespaces: &str, mappings: &str| {
        plan("", &format!(r#","linux":{{"namespaces":[{{"type":"mount"}}{namespaces}]{mappings}}}"#)).unwrap()
    };
    let mapped = |first| format!(r#","uidMappings":{0},"gidMappings":{0}"#, list(first));
    let lender = with(r#",{"type":"user"}"#, &mapped(1000));
    let joined = r#",{"type":"user","path":"/run/sandbox/containers/x"}"#;
    for own in ["".to_owned(), mapped(1000)] {
        let mut spec = with(joined, &own).spec;
        lender.lend_mappings("x", &mut spec).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(crate::mappings::outside(linux.uid_mappings().as_deref(), 1), Some(1001));
        assert_eq!(crate::mappings::outside(linux.gid_mappings().as_deref(), 1), Some(1001));
    }
    let mut other = with(joined, &mapped(2000)).spec;
    let text = lender.lend_mappings("x", &mut other).unwrap_err().to_string();
    assert!(text.contains("are not those of container \"x\""), "{text}");
    let text = with("", "").lend_mappings("x", &mut other).unwrap_err().to_string();
    assert!(text.contains("container \"x\" has no user namespace of its own"), "{text}");
}
