//! Whatever a caller sends, decoding and checking it ends in a plan or an error: thousands of requests, changed at random from ones
//! that make sense. The seed is fixed, so a failure shows again.

use std::panic::catch_unwind;

use agent_protocol::agent::{CreateContainerRequest, ExecProcessRequest, UpdateContainerRequest};
use protobuf::Message;

use crate::cgroup::check_resources;
use crate::container;
use crate::spec::{Plan, ProcessPlan};

const SPEC: &str = r#"{"ociVersion":"1.2.0","process":{"terminal":true,"consoleSize":{"height":25,"width":80},
"user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3]},"args":["sh","-c","true"],"env":["PATH=/bin"],"cwd":"/",
"capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_CHOWN"]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],
"oomScoreAdj":5,"scheduler":{"policy":"SCHED_FIFO","priority":1,"flags":["SCHED_FLAG_RESET_ON_FORK"]},
"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4},"execCPUAffinity":{"initial":"0-3,7","final":"1"}},
"root":{"path":"/run/sandbox/share/rootfs","readonly":true},"hostname":"h","hooks":{"createContainer":[{"path":"/a","timeout":5}]},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/b","type":"bind","source":"/c","options":["rbind","rro",
"idmap","rprivate","size=5"],"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"gidMappings":[{"containerID":0,"hostID":1,"size":2}]}],
"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"uts"},{"type":"ipc"},{"type":"time"},{"type":"network","path":"/x"}],
"timeOffsets":{"boottime":{"secs":1,"nanosecs":2}},"sysctl":{"kernel.sem":"1","net/ipv4/a.b":"2"},"rootfsPropagation":"rslave",
"devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,"gid":0}],"cgroupsPath":"a:b:c",
"personality":{"domain":"LINUX32"},"maskedPaths":["/proc/kcore"],"resources":RESOURCES,"seccomp":{"defaultAction":"SCMP_ACT_ERRNO",
"defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[
{"names":["read","socket"],"action":"SCMP_ACT_ALLOW"},{"names":["kill"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":10,
"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}}}"#;

const RESOURCES: &str = r#"{"memory":{"limit":1000,"swap":2000,"reservation":5},"cpu":{"shares":1024,"quota":5,"period":6,"burst":1,
"idle":1,"cpus":"0-3","mems":"0"},"pids":{"limit":5},"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":10}],
"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":10}]},"hugepageLimits":[{"pageSize":"2MB","limit":1}],
"rdma":{"x":{"hcaHandles":1}},"unified":{"memory.high":"10","io.max":"8:0 rbps=1"},
"devices":[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}]}"#;

/// What may stand in the place of a value.
const VALUES: [&str; 26] = [
    "null",
    "true",
    "0",
    "-1",
    "1",
    "4096",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "0.5",
    "\"\"",
    "\"/\"",
    "\"..\"",
    "\"a\\u0000b\"",
    "\"0-4294967295\"",
    "\"a:b:c\"",
    "\"max\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"/../../x\"",
    "\"rshared\"",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "\"\u{ff}\u{10ffff}\"",
];

/// xorshift64*: enough to be different each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            _ => {
                let end = (at + random.below(40)).min(bytes.len());
                let piece: Vec<u8> = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

/// Puts other values in the places of some.
fn mutate_json(value: &mut serde_json::Value, random: &mut Random) {
    use serde_json::Value;
    if random.below(60) == 0 {
        let other = VALUES[random.below(VALUES.len())];
        *value = serde_json::from_str(other).unwrap_or(Value::Null);
        return;
    }
    match value {
        Value::Array(list) => {
            if random.below(40) == 0 {
                let repeated: Vec<Value> = list.iter().cycle().take(list.len() * random.below(50)).cloned().collect();
                *list = repeated;
            }
            list.iter_mut().for_each(|v| mutate_json(v, random));
        }
        Value::Object(map) => {
            if random.below(40) == 0
                && let Some(key) = map.keys().nth(random.below(map.len())).cloned()
            {
                map.remove(&key);
            }
            map.values_mut().for_each(|v| mutate_json(v, random));
        }
        _ => {}
    }
}

/// All that is done with a request before a process exists.
fn take(message: &[u8], first: &oci_spec::runtime::Process) {
    if let Ok(request) = CreateContainerRequest::parse_from_bytes(message) {
        let _ = container::check_request(&request);
    }
    if let Ok(request) = ExecProcessRequest::parse_from_bytes(message) {
        let _ = ProcessPlan::exec(&request.process_json, first);
    }
    if let Ok(request) = UpdateContainerRequest::parse_from_bytes(message) {
        check_resources(&request.resources_json);
    }
}

fn message(kind: usize, spec: &serde_json::Value) -> Vec<u8> {
    let part = |pointer: &str| spec.pointer(pointer).map(ToString::to_string).unwrap_or_default().into_bytes();
    let id = "box".to_owned();
    let message = match kind {
        0 => CreateContainerRequest {
            container_id: id,
            spec_json: part(""),
            state_json: br#"{"id":"box"}"#.to_vec(),
            ..Default::default()
        }
        .write_to_bytes(),
        1 => ExecProcessRequest { container_id: id, process_json: part("/process"), ..Default::default() }
            .write_to_bytes(),
        _ => {
            UpdateContainerRequest { container_id: id, resources_json: part("/linux/resources"), ..Default::default() }
                .write_to_bytes()
        }
    };
    message.unwrap()
}

#[test]
fn no_request_makes_the_agent_panic() {
    let spec: serde_json::Value = serde_json::from_str(&SPEC.replace("RESOURCES", RESOURCES)).unwrap();
    let first = Plan::new(spec.to_string().as_bytes()).map_err(|e| e.to_string()).unwrap().process.given;
    let random = &mut Random(0x5eed);
    let mut accepted = 0;
    for round in 0..6000 {
        let mut json = spec.clone();
        mutate_json(&mut json, random);
        accepted += usize::from(round % 16 == 1 && Plan::new(json.to_string().as_bytes()).is_ok());
        let mut message = message(random.below(3), &json);
        if round % 2 == 0 {
            mutate_bytes(&mut message, random);
        }
        let taken = catch_unwind(|| take(&message, &first));
        assert!(taken.is_ok(), "round {round}: {}", String::from_utf8_lossy(&message));
    }
    assert!(accepted > 10, "only {accepted} configs were still good: the test tests nothing");
}
