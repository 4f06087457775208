//! System call filters.

use serde_json::{Value, json};

use super::{Variant, variant};

pub(super) const BUNDLES: &[Variant] = &[
    variant("seccomp-errno", |_, bundle| {
        bundle
            .set("/linux/seccomp", listed(json!([{ "names": ["mount", "bpf", "keyctl"], "action": "SCMP_ACT_ERRNO" }])))
    }),
    variant("seccomp-errno-numbers", |_, bundle| {
        bundle.set(
            "/linux/seccomp",
            listed(json!([
                { "names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 6 },
                { "names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0 },
                { "names": ["keyctl", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }
            ])),
        )
    }),
    variant("seccomp-kill", |_, bundle| {
        bundle.set("/linux/seccomp", listed(json!([{ "names": ["kcmp"], "action": "SCMP_ACT_KILL" }])))
    }),
    variant("seccomp-kill-process", |_, bundle| {
        bundle.set("/linux/seccomp", listed(json!([{ "names": ["kcmp"], "action": "SCMP_ACT_KILL_PROCESS" }])))
    }),
    variant("seccomp-trap", |_, bundle| {
        bundle.set("/linux/seccomp", listed(json!([{ "names": ["kcmp"], "action": "SCMP_ACT_TRAP" }])))
    }),
    variant("seccomp-trace-and-log", |_, bundle| {
        bundle.set(
            "/linux/seccomp",
            listed(json!([
                { "names": ["kcmp"], "action": "SCMP_ACT_TRACE", "errnoRet": 7 },
                { "names": ["mount"], "action": "SCMP_ACT_LOG" }
            ])),
        )
    }),
    variant("seccomp-arguments", |_, bundle| {
        bundle.set("/linux/seccomp", listed(json!([
            { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 0xffff_ffffu32, "op": "SCMP_CMP_NE" }] },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22, "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_EQ" }] },
            { "names": ["keyctl"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 999, "op": "SCMP_CMP_GT" }, { "index": 1, "value": 0, "op": "SCMP_CMP_EQ" }] },
            { "names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 6, "args": [{ "index": 0, "value": 0x1000_0000, "valueTwo": 0x1000_0000, "op": "SCMP_CMP_MASKED_EQ" }] },
            { "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [{ "index": 1, "value": 5, "op": "SCMP_CMP_GE" }] },
            { "names": ["setdomainname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [{ "index": 1, "value": 5, "op": "SCMP_CMP_LT" }] }
        ])))
    }),
    variant("seccomp-docker", |_, bundle| bundle.set("/linux/seccomp", docker_profile())),
    variant("seccomp-docker-without-capabilities", |_, bundle| {
        bundle
            .set("/linux/seccomp", docker_profile())
            .set("/process/noNewPrivileges", json!(true))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
            .set("/process/capabilities", json!({}))
    }),
    variant("seccomp-default-errno", |_, bundle| {
        let mut profile = docker_profile();
        profile["defaultErrnoRet"] = json!(38);
        bundle.set("/linux/seccomp", profile)
    }),
    variant("seccomp-flags", |env, bundle| {
        let mut profile = listed(json!([{ "names": ["bpf"], "action": "SCMP_ACT_ERRNO" }]));
        // runc of Debian 12 refuses flags.
        if !env.is_runc() {
            profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
        }
        bundle.set("/linux/seccomp", profile)
    }),
    variant("seccomp-allow-all", |_, bundle| {
        bundle.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW" }))
    }),
];

fn listed(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules })
}

/// All forbidden but what is listed, and some calls by their arguments: docker's default without any capability that adds to it.
pub(super) fn docker_profile() -> Value {
    let names: Vec<&str> = include_str!("syscalls.txt").split_whitespace().collect();
    let personality = |value: u64| {
        json!({
            "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]
        })
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            { "names": names, "action": "SCMP_ACT_ALLOW" },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW" },
            personality(0), personality(8), personality(0x20000), personality(0x20008), personality(0xffff_ffff),
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 0x7e02_0000, "op": "SCMP_CMP_MASKED_EQ" }] },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "names": ["arch_prctl", "modify_ldt"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["chroot"], "action": "SCMP_ACT_ALLOW" }
        ]
    })
}
