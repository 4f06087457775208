//! Bundles: a root file system under an overlay, and a config.json that starts out like docker's.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Env;

/// Which root file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Root {
    /// Debian bookworm, minbase with python3, perl and gcc.
    Debian,
    /// One static busybox and its links.
    Busybox,
}

/// A bundle, removed when dropped.
pub struct Bundle {
    /// The bundle's directory.
    pub path: PathBuf,
    /// What config.json will hold.
    pub spec: Value,
    /// The container's ID.
    pub id: String,
    mounted: bool,
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The configuration that bundles start with.
pub fn default_spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096 }],
            "noNewPrivileges": false
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

impl Env {
    /// A bundle with this root file system, writable.
    pub fn bundle(&self, root: Root) -> Bundle {
        self.bundle_named(root, "bundle")
    }

    /// One of several bundles of a case.
    pub fn bundle_named(&self, root: Root, name: &str) -> Bundle {
        let path = self.directory(name);
        let lower = match root {
            Root::Debian => &self.debian,
            Root::Busybox => &self.busybox,
        };
        for directory in ["rootfs", "upper", "overlay"] {
            std::fs::create_dir_all(path.join(directory)).expect("create directory");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            path.join("upper").display(),
            path.join("overlay").display()
        );
        let rootfs = path.join("rootfs");
        crate::host("mount", &["-t", "overlay", "overlay", "-o", &options, &rootfs.to_string_lossy()]);
        let id = format!("{}-{name}", self.case.replace("::", "-"));
        Bundle { path, spec: default_spec(), id, mounted: true }
    }

    /// A bundle directory with nothing in it, not even config.json.
    pub fn empty_bundle(&self) -> Bundle {
        let path = self.directory("bundle");
        let id = self.case.replace("::", "-");
        Bundle { path, spec: default_spec(), id, mounted: false }
    }
}

impl Bundle {
    /// The command in the container.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    /// A shell script as the command in the container.
    pub fn script(self, script: &str) -> Self {
        self.args(&["sh", "-c", script])
    }

    /// Sets one value of the configuration by its JSON pointer; objects on the way are made.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.spec;
        for key in pointer.trim_start_matches('/').split('/') {
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value;
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, variable: &str) -> Self {
        self.spec["process"]["env"].as_array_mut().expect("env is a list").push(json!(variable));
        self
    }

    /// Adds a mount.
    pub fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().expect("mounts is a list").push(mount);
        self
    }

    /// Adds a bind mount of a host directory or file.
    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Self {
        let mut all = vec!["rbind"];
        all.extend(options);
        self.mount(json!({ "destination": destination, "type": "bind", "source": source, "options": all }))
    }

    /// Adds the test program as /probe.
    pub fn probe(self, env: &Env) -> Self {
        self.bind(&env.probe, "/probe", &["ro"])
    }

    /// Leaves out a namespace.
    pub fn without_namespace(mut self, name: &str) -> Self {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().expect("namespaces is a list");
        namespaces.retain(|namespace| namespace["type"] != name);
        self
    }

    /// Adds a namespace.
    pub fn namespace(mut self, namespace: Value) -> Self {
        self.spec["linux"]["namespaces"].as_array_mut().expect("namespaces is a list").push(namespace);
        self
    }

    /// All capabilities, no masks: what a case needs that looks at the kernel.
    pub fn privileged(self) -> Self {
        let all: Vec<String> = CAPABILITIES
            .iter()
            .map(|name| (*name).to_owned())
            .chain(
                ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_IPC_LOCK"]
                    .map(String::from),
            )
            .collect();
        self.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }))
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]))
    }

    /// Writes config.json.
    pub fn save(&self) {
        let text = serde_json::to_string_pretty(&self.spec).expect("a JSON value can be written");
        std::fs::write(self.path.join("config.json"), text).expect("write config.json");
    }

    /// A path in the root file system, as the host sees it.
    pub fn host_path(&self, path: &str) -> PathBuf {
        self.path.join("rootfs").join(path.trim_start_matches('/'))
    }
}

impl Drop for Bundle {
    /// Unmounts the root file system: this must work once the container is gone. What fails here, the census reports.
    fn drop(&mut self) {
        if self.mounted {
            let rootfs = self.path.join("rootfs");
            match Command::new("umount").arg(&rootfs).output() {
                Ok(output) if output.status.success() => {}
                other => eprintln!("umount {}: {other:?}", rootfs.display()),
            }
        }
    }
}
