//! Whole installations, in temporary directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use tempfile::TempDir;

use super::*;
use crate::install::host::file_behind;

const DAEMON: &str = "{\n    \"debug\": true,\n    \"dns\": [\"8.8.8.8\"]\n}\n";
const CONTAINERD: &str =
    "# ours\nversion = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/b\"\n";

struct Machine {
    directory: TempDir,
    host: Host,
    options: Options,
}

impl Machine {
    /// Without docker, without containerd.
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let host = Host { program: "/usr/local/bin/sandbox".to_string(), search: at("bin").into() };
        let (docker, containerd) = (at("docker/daemon.json"), at("containerd/config.toml"));
        let options = Options { name: "sandbox".to_string(), docker, containerd, dry_run: false };
        Machine { directory, host, options }
    }

    /// With directories for the files of both.
    fn new() -> Self {
        let machine = Self::empty();
        for file in [&machine.options.docker, &machine.options.containerd] {
            fs::create_dir(file.parent().unwrap()).unwrap();
        }
        machine
    }

    /// With files of both.
    fn configured() -> Self {
        let machine = Self::new();
        fs::write(&machine.options.docker, DAEMON).unwrap();
        fs::write(&machine.options.containerd, CONTAINERD).unwrap();
        machine
    }

    fn install(&self) -> String {
        self.try_install().unwrap()
    }

    /// What is said, without the name of the directory.
    fn try_install(&self) -> Result<String, String> {
        let mut out = Vec::new();
        let result = install(&self.options, &self.host, &mut out);
        self.said(result, out)
    }

    fn uninstall(&self) -> String {
        self.try_uninstall().unwrap()
    }

    fn try_uninstall(&self) -> Result<String, String> {
        let mut out = Vec::new();
        let result = uninstall(&self.options, &mut out);
        self.said(result, out)
    }

    fn said(&self, result: Result<(), InstallError>, out: Vec<u8>) -> Result<String, String> {
        let directory = format!("{}/", self.directory.path().display());
        let shown = |text: String| text.replace(&directory, "");
        result.map(|()| shown(String::from_utf8(out).unwrap())).map_err(|error| shown(error.to_string()))
    }

    fn docker(&self) -> String {
        fs::read_to_string(&self.options.docker).unwrap()
    }

    fn containerd(&self) -> String {
        fs::read_to_string(&self.options.containerd).unwrap()
    }

    /// Names below a directory, in order.
    fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

#[test]
fn both_get_the_runtime_and_lose_it_again() {
    let machine = Machine::configured();
    assert_eq!(
        machine.install(),
        concat!(
            "docker/daemon.json: runtime sandbox was added; the file as it was: docker/daemon.json.before-sandbox\n",
            "containerd/config.toml: runtime sandbox was added; the file as it was: containerd/config.toml.before-sandbox\n",
            "next: systemctl reload docker\nnext: systemctl restart containerd\n"
        )
    );
    assert_eq!(machine.files("docker"), ["daemon.json", "daemon.json.before-sandbox"]);
    let value: serde_json::Value = serde_json::from_str(&machine.docker()).unwrap();
    assert_eq!(value["runtimes"]["sandbox"]["path"], "/usr/local/bin/sandbox");
    assert!(machine.docker().starts_with("{\n    \"debug\": true,\n    \"dns\": [\"8.8.8.8\"],\n    \"runtimes\""));
    assert!(machine.containerd().starts_with(CONTAINERD));
    assert!(machine.containerd().contains("BinaryName = \"/usr/local/bin/sandbox\""));
    assert_eq!(
        machine.uninstall(),
        concat!(
            "docker/daemon.json: runtime sandbox was taken out\ncontainerd/config.toml: runtime sandbox was taken out\n",
            "next: systemctl reload docker\nnext: systemctl restart containerd\n"
        )
    );
    assert_eq!((machine.docker().as_str(), machine.containerd().as_str()), (DAEMON, CONTAINERD));
    assert_eq!(
        (machine.files("docker"), machine.files("containerd")),
        (vec!["daemon.json".to_string()], vec!["config.toml".to_string()])
    );
    assert_eq!(machine.uninstall(), "runtime sandbox is not installed\n");
}

#[test]
fn files_that_are_missing_are_made_and_removed() {
    let machine = Machine::new();
    let said = machine.install();
    assert!(said.starts_with("docker/daemon.json: runtime sandbox was added\ncontainerd/config.toml: "), "{said}");
    assert_eq!(fs::metadata(&machine.options.docker).unwrap().mode() & 0o7777, 0o644);
    assert!(machine.docker().starts_with("{\n  \"runtimes\": {\n    \"sandbox\": {\n"));
    assert!(machine.containerd().starts_with("version = 2\n\n[plugins."));
    // A later path makes no backup: without the runtime there was no file.
    fs::write(&machine.options.docker, machine.docker().replace("local/", "")).unwrap();
    machine.install();
    let said = machine.uninstall();
    assert!(said.contains("docker/daemon.json: the file was removed: it held nothing but runtime sandbox\n"), "{said}");
    assert!(machine.files("docker").is_empty() && machine.files("containerd").is_empty());
}

#[test]
fn one_that_is_only_a_program_gets_a_directory() {
    let machine = Machine::empty();
    fs::create_dir(machine.directory.path().join("bin")).unwrap();
    fs::write(machine.directory.path().join("bin/dockerd"), "").unwrap();
    assert_eq!(machine.install(), "docker/daemon.json: runtime sandbox was added\nnext: systemctl reload docker\n");
    assert!(!machine.directory.path().join("containerd").exists());
}

#[test]
fn nobody_to_install_for() {
    let machine = Machine::empty();
    let text = machine.try_install().unwrap_err();
    assert!(text.starts_with("neither docker nor containerd is on this machine: "), "{text}");
    assert_eq!(machine.uninstall(), "runtime sandbox is not installed\n");
}

#[test]
fn the_second_time_nothing_is_written() {
    let machine = Machine::configured();
    machine.install();
    let inode = || fs::metadata(&machine.options.docker).unwrap().ino();
    let before = inode();
    let installed = "runtime sandbox is installed already\n";
    assert_eq!(machine.install(), format!("docker/daemon.json: {installed}containerd/config.toml: {installed}"));
    assert_eq!(inode(), before);
}

#[test]
fn an_older_path_is_replaced() {
    let mut machine = Machine::configured();
    machine.install();
    machine.host.program = "/opt/new/sandbox".to_string();
    let said = machine.install();
    assert!(said.starts_with("docker/daemon.json: runtime sandbox has the path of this program now\n"), "{said}");
    assert!(machine.docker().contains("\"/opt/new/sandbox\"") && machine.containerd().contains("\"/opt/new/sandbox\""));
    machine.uninstall();
    assert_eq!((machine.docker().as_str(), machine.containerd().as_str()), (DAEMON, CONTAINERD));
}

#[test]
fn another_program_keeps_its_name() {
    let mut machine = Machine::configured();
    let foreign = r#"{"runtimes": {"sandbox": {"path": "/opt/other"}}}"#;
    fs::write(&machine.options.docker, foreign).unwrap();
    let refusal = "docker/daemon.json: runtime sandbox is another program, /opt/other: \
                   take another name with --runtime-name, or remove that entry";
    assert_eq!(machine.try_install().unwrap_err(), refusal);
    // The file that could be edited is as it was.
    assert_eq!((machine.docker().as_str(), machine.containerd().as_str()), (foreign, CONTAINERD));
    let left = "docker/daemon.json: runtime sandbox is another program, /opt/other: left as it is\n";
    assert_eq!(machine.uninstall(), left);
    machine.options.name = "vm".to_string();
    machine.install();
    assert!(machine.docker().contains("/opt/other") && machine.docker().contains("\"vm\""));
    machine.uninstall();
    assert_eq!(machine.docker(), foreign);
}

#[test]
fn a_dry_run_shows_and_changes_nothing() {
    let mut machine = Machine::configured();
    fs::remove_file(&machine.options.containerd).unwrap();
    machine.options.dry_run = true;
    let said = machine.install();
    let shown = [
        "--- docker/daemon.json\n+++ docker/daemon.json\n@@ -1,4 +1,9 @@\n {\n     \"debug\": true,\n",
        "-    \"dns\": [\"8.8.8.8\"]\n+    \"dns\": [\"8.8.8.8\"],\n+    \"runtimes\": {\n",
        "--- /dev/null\n+++ containerd/config.toml\n@@ -0,0 +1,",
    ];
    assert!(shown.iter().all(|part| said.contains(part)) && !said.contains("next: "), "{said}");
    assert_eq!((machine.docker().as_str(), machine.files("containerd").len()), (DAEMON, 0));
    machine.options.dry_run = false;
    machine.install();
    let installed = machine.docker();
    machine.options.dry_run = true;
    let said = machine.uninstall();
    assert!(said.contains("-            \"path\": \"/usr/local/bin/sandbox\"\n"), "{said}");
    assert!(said.contains("--- containerd/config.toml\n+++ /dev/null\n"), "{said}");
    assert_eq!((machine.docker(), machine.files("containerd").len()), (installed, 1));
}

#[test]
fn the_first_backup_stays() {
    let machine = Machine::configured();
    machine.install();
    let changed = machine.docker().replace("true", "false");
    fs::write(&machine.options.docker, changed).unwrap();
    machine.uninstall();
    // What was changed meanwhile is kept, and so the file is not what it was.
    assert_eq!(machine.docker(), DAEMON.replace("true", "false"));
    assert_eq!(machine.files("docker"), ["daemon.json", "daemon.json.before-sandbox"]);
    let said = machine.install();
    assert!(said.starts_with("docker/daemon.json: runtime sandbox was added\n"), "{said}");
    assert_eq!(fs::read_to_string(machine.options.docker.with_extension("json.before-sandbox")).unwrap(), DAEMON);
}

#[test]
fn owner_and_permissions_stay() {
    let machine = Machine::configured();
    fs::set_permissions(&machine.options.docker, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&machine.options.docker, Some(1234), Some(567)).unwrap();
    }
    let of = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.gid())
    };
    let before = of(&machine.options.docker);
    machine.install();
    assert_eq!(of(&machine.options.docker), before);
    assert_eq!(of(&machine.options.docker.with_extension("json.before-sandbox")), before);
    machine.uninstall();
    assert_eq!(of(&machine.options.docker), before);
}

#[test]
fn links_are_followed() {
    let machine = Machine::new();
    let kept = machine.directory.path().join("kept");
    fs::create_dir(&kept).unwrap();
    symlink(kept.join("docker.json"), &machine.options.docker).unwrap();
    let text = machine.try_install().unwrap_err();
    assert_eq!(text, "docker/daemon.json is a link to a file that is not there: make that file, or remove the link");
    fs::write(kept.join("docker.json"), DAEMON).unwrap();
    machine.install();
    assert!(machine.options.docker.is_symlink());
    assert_eq!(machine.files("kept"), ["docker.json", "docker.json.before-sandbox"]);
    machine.uninstall();
    assert_eq!((machine.files("kept"), machine.docker().as_str()), (vec!["docker.json".to_string()], DAEMON));
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    let machine = Machine::configured();
    fs::write(&machine.options.containerd, "version = 2\nroot =\n").unwrap();
    let text = machine.try_install().unwrap_err();
    assert!(text.starts_with("containerd/config.toml: line 2, column 7: "), "{text}");
    assert!(text.ends_with(": mend the file first") && !text.contains('\n'), "{text}");
    fs::write(&machine.options.docker, "{\n  \"debug\": true,\n}\n").unwrap();
    let text = machine.try_uninstall().unwrap_err();
    assert_eq!(text, "docker/daemon.json: line 3, column 1: trailing comma: mend the file first");
    assert_eq!(machine.docker(), "{\n  \"debug\": true,\n}\n");
    fs::write(&machine.options.docker, b"\xff").unwrap();
    assert!(machine.try_install().unwrap_err().starts_with("cannot read docker/daemon.json: "));
    fs::remove_file(&machine.options.docker).unwrap();
    fs::create_dir(&machine.options.docker).unwrap();
    assert_eq!(machine.try_install().unwrap_err(), "cannot read docker/daemon.json: is a directory");
}

#[test]
fn a_containerd_that_is_only_dockers() {
    let machine = Machine::configured();
    fs::write(&machine.options.containerd, "disabled_plugins = [\"cri\"]\n").unwrap();
    let said = machine.install();
    assert!(said.contains("containerd/config.toml: disabled_plugins has containerd's CRI plugin"), "{said}");
    assert!(said.ends_with("\nnext: systemctl reload docker\n"), "{said}");
    assert_eq!(machine.containerd(), "disabled_plugins = [\"cri\"]\n");
    fs::remove_dir_all(machine.options.docker.parent().unwrap()).unwrap();
    assert!(machine.try_install().unwrap_err().ends_with(": enable it first"));
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut machine = Machine::configured();
    machine.options.docker = "/proc/daemon.json".into();
    let text = machine.try_install().unwrap_err();
    assert!(text.starts_with("cannot write /proc/daemon.json: ") && !text.contains("os error"), "{text}");
}

#[test]
fn users_are_told_to_be_root() {
    let source = std::io::Error::from_raw_os_error(libc::EACCES);
    let error = InstallError::File { what: "write", path: "/etc/docker/daemon.json".into(), source };
    assert_eq!(error.to_string(), "cannot write /etc/docker/daemon.json: permission denied: run this as root");
}

#[test]
fn the_program_is_where_the_kernel_says() {
    let directory = tempfile::tempdir().unwrap();
    let (link, program) = (directory.path().join("exe"), directory.path().join("sandbox"));
    symlink(&program, &link).unwrap();
    assert!(matches!(file_behind(&link), Err(InstallError::ProgramGone)));
    fs::write(&program, "").unwrap();
    assert_eq!(file_behind(&link).unwrap(), program.to_str().unwrap());
    // Tests have names of their own.
    assert!(matches!(Host::this(), Err(InstallError::ProgramName(_))));
}

#[test]
fn names_of_runtimes() {
    for name in ["sandbox", "vm-1", "a_b.c", "0"] {
        assert_eq!(runtime_name(name).as_deref(), Ok(name));
    }
    for name in ["", "-a", ".a", "a b", "a/b", "ä", "runc", "io.containerd.runc.v2"] {
        assert!(runtime_name(name).is_err(), "{name}");
    }
}
