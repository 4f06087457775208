//! Good configurations with seeded mistakes: whatever they become, there is an answer, and it is one line.

use std::panic::catch_unwind;

use serde_json::Value;

use super::*;

const SEEDS: [&str; 3] = [
    include_str!("../spec/config.json"),
    r#"{"ociVersion":"1.0.2","root":{"path":"r","readonly":false},"hostname":"h","domainname":"d","annotations":{"a":"b"},
    "process":{"terminal":false,"consoleSize":{"height":1,"width":2},"args":["a"],"env":["A=b"],"cwd":"/","user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3]},
    "rlimits":[{"type":"RLIMIT_CPU","soft":1,"hard":2}],"capabilities":{"bounding":["CAP_KILL"]},"oomScoreAdj":5,"noNewPrivileges":true,
    "ioPriority":{"class":"IOPRIO_CLASS_BE","priority":3},"scheduler":{"policy":"SCHED_BATCH","nice":1},"execCPUAffinity":{"initial":"0","final":"0-1"}},
    "mounts":[{"destination":"/a","type":"bind","source":"/b","options":["rbind","ro"]}],
    "hooks":{"prestart":[{"path":"/h","args":["h"],"env":["A=b"],"timeout":3}]},
    "linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"user"},{"type":"time"},{"type":"network","path":"/n"}],
    "uidMappings":[{"containerID":0,"hostID":1,"size":2}],"gidMappings":[{"containerID":0,"hostID":1,"size":2}],
    "timeOffsets":{"monotonic":{"secs":1,"nanosecs":2}},"devices":[{"path":"/dev/x","type":"c","major":1,"minor":2,"fileMode":438,"uid":0,"gid":0}],
    "cgroupsPath":"/c","sysctl":{"net.a":"1"},"rootfsPropagation":"slave","maskedPaths":["/m"],"readonlyPaths":["/r"],"personality":{"domain":"LINUX"}}}"#,
    r#"{"ociVersion":"1.1.0","root":{"path":"r"},"process":{"args":["a"],"cwd":"/","user":{}},"vm":{"kernel":{"path":"","parameters":[]}},
    "linux":{"namespaces":[{"type":"mount"}],"resources":{"devices":[{"allow":true,"type":"c","major":1,"minor":2,"access":"rw"}],
    "memory":{"limit":1,"reservation":2,"swap":3,"disableOOMKiller":false},"cpu":{"shares":1,"quota":2,"burst":3,"period":4,"idle":1,"cpus":"0","mems":"0"},
    "pids":{"limit":5},"blockIO":{"weight":10,"weightDevice":[{"major":1,"minor":2,"weight":10}],"throttleReadBpsDevice":[{"major":1,"minor":2,"rate":3}]},
    "hugepageLimits":[{"pageSize":"2MB","limit":1}],"rdma":{"mlx":{"hcaHandles":1}},"unified":{"cpu.max":"1"}},
    "seccomp":{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_EQ"}]}]}}}"#,
];

/// xorshift64*: the same sequence for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn strange(random: &mut Random) -> Value {
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1e400",
        "1.5",
        "9223372036854775808",
        "18446744073709551615",
        "-9223372036854775809",
        "\"\"",
        "\"../../../etc/passwd\"",
        "\"a\\u0000b\"",
        "\"\\u001b[2J\\n\"",
        "[]",
        "{}",
        "[null]",
        "[[[]]]",
        "{\"\":0}",
        "\"\\ud83e\\udd80\"",
        "[\"a\",1]",
        "{\"type\":\"mount\",\"path\":\"x\"}",
        "4294967296",
    ];
    serde_json::from_str(values[random.below(values.len())]).unwrap_or_else(|_| Value::from("x".repeat(5000)))
}

/// Replaces, removes or doubles one value somewhere in the tree.
fn mutate(value: &mut Value, random: &mut Random) {
    let leave = random.below(4) == 0;
    match value {
        Value::Array(list) if !leave && !list.is_empty() => {
            let index = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(index)),
                1 => list.push(list[index].clone()),
                _ => mutate(&mut list[index], random),
            }
        }
        Value::Object(map) if !leave && !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).unwrap().clone();
            match random.below(8) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(format!("{key}x"), strange(random))),
                _ => mutate(map.get_mut(&key).unwrap(), random),
            }
        }
        other => *other = strange(random),
    }
}

/// Changes bytes of the text: mostly not JSON afterwards.
fn scramble(text: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let place = random.below(text.len());
        match random.below(4) {
            0 => text.truncate(place),
            1 => drop(text.splice(place..place, [random.next() as u8])),
            2 => drop(text.splice(place..(place + 1).min(text.len()), [])),
            _ => {
                if let Some(byte) = text.get_mut(place) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
}

#[test]
fn no_configuration_is_without_an_answer() {
    let seed = std::env::var("SANDBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_u64).max(1);
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let (mut refused, mut accepted) = (0, 0);
    for round in 0..3000 {
        let good = SEEDS[round % SEEDS.len()];
        let mut text = good.as_bytes().to_vec();
        if round % 4 == 0 {
            scramble(&mut text, &mut random);
        } else {
            let mut value: Value = serde_json::from_str(good).unwrap();
            (0..=random.below(3)).for_each(|_| mutate(&mut value, &mut random));
            text = value.to_string().into_bytes();
        }
        fs::write(&path, &text).unwrap();
        let result = catch_unwind(|| Bundle::load(directory.path()).map(drop).map_err(|error| error.to_string()));
        let shown = || format!("seed {seed}, round {round}: {}", String::from_utf8_lossy(&text));
        match result.unwrap_or_else(|_| panic!("{}", shown())) {
            Ok(()) => accepted += 1,
            Err(sentence) => {
                assert!(!sentence.is_empty() && sentence.len() < 2000, "{}\n{sentence}", shown());
                assert!(!sentence.contains(char::is_control), "{}\n{sentence:?}", shown());
                refused += 1;
            }
        }
    }
    assert!(refused > 500 && accepted > 50, "{refused} refused, {accepted} accepted");
}

#[test]
fn the_seeds_are_good() {
    for seed in SEEDS {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), seed).unwrap();
        Bundle::load(directory.path()).unwrap();
    }
}
