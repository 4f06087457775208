//! Reads a bundle: config.json as the OCI runtime specification defines it, and what is refused by name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, Process, Spec};

use crate::error::Plain;

/// Why a bundle cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The bundle's directory or its config.json cannot be read.
    #[error("{}: {}; name the bundle's directory with --bundle", .path.display(), Plain(.source))]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// config.json is not JSON, or a field has the wrong type.
    #[error("{}, line {line}, column {column}: {message}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// ociVersion is of another major version, or no version.
    #[error("ociVersion {0:?} in config.json is not supported: use a version 1.x of the OCI runtime specification")]
    Version(String),
    /// A field that must be there is not.
    #[error("{0} is missing in config.json")]
    Missing(&'static str),
    /// A field has a value that cannot be.
    #[error("{field} in config.json: {reason}")]
    Invalid {
        /// The field's name.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field asks for something that this runtime does not do.
    #[error("{field} in config.json is not supported{reason}; remove it from config.json")]
    Unsupported {
        /// The field's name.
        field: String,
        /// Empty, or the reason in brackets.
        reason: &'static str,
    },
}

/// A bundle that was read and checked.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its directory, absolute.
    pub directory: PathBuf,
    /// Its config.json.
    pub spec: Spec,
}

impl Bundle {
    /// Reads and checks `directory`/config.json.
    pub fn load(directory: &Path) -> Result<Self, BundleError> {
        let read = |path: &Path| {
            let path = path.to_path_buf();
            move |source| BundleError::Read { path, source }
        };
        let directory = fs::canonicalize(directory).map_err(read(directory))?;
        let path = directory.join("config.json");
        let text = fs::read(&path).map_err(read(&path))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(|error| json_error(path, &error))?;
        check(&spec)?;
        Ok(Self { directory, spec })
    }

    /// The container's process has a terminal.
    pub fn wants_terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
    }
}

fn json_error(path: PathBuf, error: &serde_json::Error) -> BundleError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let message = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_string();
    BundleError::Json { path, line, column, message }
}

fn check(spec: &Spec) -> Result<(), BundleError> {
    check_version(spec.version())?;
    check_sections(spec)?;
    check_process(spec.process().as_ref().ok_or(BundleError::Missing("process"))?)?;
    let root = spec.root().as_ref().ok_or(BundleError::Missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(BundleError::Missing("root.path"));
    }
    check_hooks(spec)?;
    spec.linux().as_ref().map_or(Ok(()), check_linux)
}

fn check_version(version: &str) -> Result<(), BundleError> {
    if version.is_empty() {
        return Err(BundleError::Missing("ociVersion"));
    }
    let mut numbers = version.split(['-', '+']).next().unwrap_or_default().split('.');
    let major = numbers.next();
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if major != Some("1") || numbers.clone().count() != 2 || !numbers.all(numeric) {
        return Err(BundleError::Version(version.to_string()));
    }
    Ok(())
}

/// An error if a field that is not supported is there.
fn refuse(present: bool, field: &str, reason: &'static str) -> Result<(), BundleError> {
    if present { Err(BundleError::Unsupported { field: field.to_string(), reason }) } else { Ok(()) }
}

fn check_sections(spec: &Spec) -> Result<(), BundleError> {
    refuse(spec.solaris().is_some(), "solaris", " (containers are Linux ones)")?;
    refuse(spec.windows().is_some(), "windows", " (containers are Linux ones)")?;
    refuse(spec.zos().is_some(), "zos", " (containers are Linux ones)")?;
    refuse(spec.vm().is_some(), "vm", "")
}

fn check_process(process: &Process) -> Result<(), BundleError> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(BundleError::Missing("process.args"));
    }
    let invalid =
        |field: &str, reason: &str| Err(BundleError::Invalid { field: field.to_string(), reason: reason.to_string() });
    if args[0].is_empty() {
        return invalid("process.args[0]", "the command's name is empty");
    }
    let environment = process.env().as_deref().unwrap_or_default();
    if args.iter().chain(environment).any(|text| text.contains('\0')) {
        return invalid("process.args and process.env", "a NUL character cannot be passed to a process");
    }
    if !process.cwd().is_absolute() {
        return invalid("process.cwd", "the working directory must be an absolute path");
    }
    let profile = process.apparmor_profile().as_deref().unwrap_or_default();
    let confined = !profile.is_empty() && profile != "unconfined";
    refuse(confined, "process.apparmorProfile", " (the guest's kernel has no AppArmor)")?;
    let label = process.selinux_label().as_deref().unwrap_or_default();
    refuse(!label.is_empty(), "process.selinuxLabel", " (the guest's kernel has no SELinux)")
}

fn check_hooks(spec: &Spec) -> Result<(), BundleError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let some = |list: &Option<Vec<Hook>>| list.as_ref().is_some_and(|list| !list.is_empty());
    #[allow(deprecated)] // by the specification, yet in use
    let prestart = some(hooks.prestart());
    refuse(prestart, "hooks.prestart", " yet")?;
    refuse(some(hooks.create_runtime()), "hooks.createRuntime", " yet")?;
    refuse(some(hooks.create_container()), "hooks.createContainer", " yet")?;
    refuse(some(hooks.start_container()), "hooks.startContainer", " yet")?;
    refuse(some(hooks.poststart()), "hooks.poststart", " yet")?;
    refuse(some(hooks.poststop()), "hooks.poststop", " yet")
}

fn check_linux(linux: &Linux) -> Result<(), BundleError> {
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let network = namespace.typ() == LinuxNamespaceType::Network;
        let path = !network && namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        refuse(path, &format!("linux.namespaces[{index}].path"), " yet")?;
    }
    let devices = linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty());
    refuse(devices, "linux.netDevices", " yet")?;
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt", " (a guest has no access to the processor's cache control)")?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy", " (a guest has one memory node)")?;
    let label = linux.mount_label().as_deref().unwrap_or_default();
    refuse(!label.is_empty(), "linux.mountLabel", " (the guest's kernel has no SELinux)")?;
    linux.seccomp().as_ref().map_or(Ok(()), check_seccomp)
}

fn check_seccomp(seccomp: &LinuxSeccomp) -> Result<(), BundleError> {
    let notify = |action: LinuxSeccompAction| action == LinuxSeccompAction::ScmpActNotify;
    let reason = " (SCMP_ACT_NOTIFY needs a listener on the host)";
    refuse(notify(seccomp.default_action()), "linux.seccomp.defaultAction", reason)?;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        refuse(notify(rule.action()), &format!("linux.seccomp.syscalls[{index}].action"), reason)?;
    }
    let path = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    refuse(path, "linux.seccomp.listenerPath", " (a guest cannot reach a listener on the host)")?;
    let metadata = seccomp.listener_metadata().as_deref().unwrap_or_default();
    refuse(!metadata.is_empty(), "linux.seccomp.listenerMetadata", " (a guest cannot reach a listener on the host)")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "ociVersion": "1.0.2-dev",
            "root": {"path": "rootfs"},
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "linux": {"namespaces": [{"type": "pid"}]}
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
        assert!(text.contains("line 1, column 16: invalid type: integer `7`, expected a string"), "{text}");
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
            check_version(version).unwrap();
        }
        for version in ["2.0.0", "0.9.0", "1", "1.x.0", "one", "1.0.0.0", "1..0"] {
            assert!(check_version(version).unwrap_err().to_string().contains(version));
        }
    }

    #[test]
    fn unsupported_fields_are_refused_by_name() {
        let hook = json!([{"path": "/bin/true"}]);
        for name in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
            let text = refusal("", "hooks", json!({name: hook}));
            assert_eq!(text, format!("hooks.{name} in config.json is not supported yet; remove it from config.json"));
        }
        for (section, key, value) in [
            ("process", "apparmorProfile", json!("docker-default")),
            ("process", "selinuxLabel", json!("a:b:c")),
            ("linux", "intelRdt", json!({})),
            ("linux", "mountLabel", json!("a:b:c")),
            ("linux", "netDevices", json!({"eth0": {}})),
        ] {
            let text = refusal(section, key, value);
            assert!(text.starts_with(&format!("{section}.{key} in config.json is not supported")), "{text}");
        }
        let text = refusal(
            "linux",
            "namespaces",
            json!([{"type": "network", "path": "/x"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]),
        );
        assert!(text.starts_with("linux.namespaces[1].path in config.json is not supported yet"), "{text}");
        assert!(refusal("", "solaris", json!({})).starts_with("solaris in config.json is not supported"));
    }

    #[test]
    fn seccomp_notify_is_refused() {
        let rule = json!({"names": ["mount"], "action": "SCMP_ACT_NOTIFY"});
        let text = refusal("linux", "seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        assert!(text.starts_with("linux.seccomp.syscalls[0].action in config.json is not supported"), "{text}");
        let text = refusal("linux", "seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}));
        assert!(text.starts_with("linux.seccomp.listenerPath"), "{text}");
    }

    #[test]
    fn empty_values_are_no_requests() {
        let mut config = good();
        config["hooks"] = json!({"prestart": []});
        config["process"]["apparmorProfile"] = json!("");
        config["linux"]["mountLabel"] = json!("");
        config["linux"]["netDevices"] = json!({});
        config["mounts"] = Value::Null;
        load(&config.to_string()).unwrap();
    }
}
