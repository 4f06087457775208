//! What callers pass is understood.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn run_takes_bundle_and_root_anywhere() {
    let cli = parse("sandbox --root /q --root /r run -b /b c1");
    assert_eq!(cli.root, PathBuf::from("/r"));
    assert_eq!(parse("sandbox run --root /r c1").root, PathBuf::from("/r"));
    let Some(Command::Run(run)) = cli.command else { panic!("not run") };
    assert_eq!((run.create.bundle, run.create.id.as_str()), (PathBuf::from("/b"), "c1"));
}

#[test]
fn what_containerd_calls() {
    let global = "sandbox --root /run/x --log /b/log.json --log-format json --debug --systemd-cgroup";
    let line = format!(
        "{global} create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring c1"
    );
    let cli = parse(&line);
    assert_eq!((cli.log_format, cli.log), (Format::Json, Some("/b/log.json".into())));
    let Some(Command::Create(create)) = cli.command else { panic!("not create") };
    assert_eq!(create.handover.pid_file, Some("/b/init.pid".into()));
    for rest in
        ["start c1", "state c1", "kill --all c1 9", "kill c1", "delete --force c1", "delete c1", "list --format json"]
    {
        parse(&format!("{global} {rest}"));
    }
    for rest in [
        "exec --process /p --console-socket /s --detach --pid-file /f c1",
        "exec -t -e A=1 -e B=2 -u 1:2 -g 5 -c CAP_KILL --cgroup x c1 ls -l --color",
        "ps --format json c1",
        "ps c1 -ef",
        "ps -f table c1 -f",
        "ps c1 -e -x -o pid,args",
        "ps c1 aux",
        "pause c1",
        "resume c1",
        "update --resources=- c1",
        "update --memory 5 --cpu-quota -1 c1",
        "events --stats c1",
        "events --interval=5s c1",
    ] {
        parse(&format!("{global} {rest}"));
    }
    parse("sandbox --rootless=true --criu /x list -q");
    parse("sandbox spec --rootless -b /b");
    parse("sandbox --rootless auto features");
}

#[test]
fn an_option_that_is_given_twice_counts_as_it_comes_last() {
    let cli = parse(
        "sandbox --debug --log-format json --systemd-cgroup --debug --log /a --log-format text --log /b list -q -q",
    );
    assert!(cli.debug && cli.systemd_cgroup);
    assert_eq!((cli.log_format, cli.log), (Format::Text, Some("/b".into())));
    let cli = parse("sandbox --systemd-cgroup run --detach --detach --systemd-cgroup -b /x -b /y c1");
    let Some(Command::Run(run)) = cli.command else { panic!("not run") };
    assert!(cli.systemd_cgroup && run.detach);
    assert_eq!(run.create.bundle, PathBuf::from("/y"));
    let Some(Command::Exec(exec)) = parse("sandbox exec -e A=1 -e B=2 -g 1 -g 2 c1 env -e -e").command else {
        panic!("not exec")
    };
    let wanted = exec.options(Path::new("/r")).unwrap().wanted;
    assert_eq!((wanted.environment.len(), wanted.groups.len(), wanted.arguments.len()), (2, 2, 3));
}

#[test]
fn switches_have_values_as_with_runc() {
    for (line, want) in [
        ("sandbox --debug=true --systemd-cgroup=true list", true),
        ("sandbox --debug --systemd-cgroup list", true),
        ("sandbox list --debug --systemd-cgroup=1", true),
        ("sandbox --debug=false --systemd-cgroup=0 list", false),
        ("sandbox --debug --systemd-cgroup --debug=false --systemd-cgroup=false list", false),
        ("sandbox list", false),
    ] {
        let cli = parse(line);
        assert_eq!((cli.debug, cli.systemd_cgroup), (want, want), "{line}");
    }
    assert!(Cli::try_parse_from(["sandbox", "--debug=maybe", "list"]).is_err());
}

#[test]
fn checkpoint_and_restore_are_refused_whatever_is_asked() {
    let global = "sandbox --root /run/x --log /b/log.json --log-format json --systemd-cgroup";
    let checkpoint = "checkpoint is not supported: a running micro-VM cannot be saved";
    let restore = "restore is not supported: a micro-VM cannot go on from a checkpoint";
    for (rest, words) in [
        ("checkpoint --image-path /i --work-path /w --leave-running c1", checkpoint),
        (
            "checkpoint --tcp-established --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode soft c1",
            checkpoint,
        ),
        ("checkpoint", checkpoint),
        ("restore --image-path /i --work-path /w --bundle /b --detach --pid-file /b/p --no-pivot c1", restore),
        ("restore --console-socket /s --no-subreaper c1", restore),
    ] {
        let cli = parse(&format!("{global} {rest}"));
        let log = Log::new(None, Format::Text);
        let global =
            Global { root: cli.root, log, settings: Ok(Settings::default()), systemd_cgroup: false, start_ns: 0 };
        let error = execute(cli.command.expect("a command"), global).expect_err("refused");
        assert!(error.to_string().starts_with(words), "{rest}: {error}");
        assert_eq!(error.exit_status(), 1);
    }
}

#[test]
fn install_knows_where_files_are() {
    let Some(Command::Install(usual)) = parse("sandbox install").command else { panic!("not install") };
    let usual = usual.options();
    assert_eq!((usual.name.as_str(), usual.dry_run), ("sandbox", false));
    assert_eq!(usual.docker, Path::new("/etc/docker/daemon.json"));
    assert_eq!(usual.containerd, Path::new("/etc/containerd/config.toml"));
    let line = "sandbox uninstall --dry-run --runtime-name vm --docker-config d.json --containerd-config /c";
    let Some(Command::Uninstall(other)) = parse(line).command else { panic!("not uninstall") };
    let other = other.options();
    assert_eq!((other.name.as_str(), other.dry_run), ("vm", true));
    assert_eq!(other.docker, std::env::current_dir().unwrap().join("d.json"));
    for name in ["", "runc", "io.containerd.runc.v2", "-x", "a b", "a/b"] {
        assert!(Cli::try_parse_from(["sandbox", "install", "--runtime-name", name]).is_err(), "{name}");
    }
}

#[test]
fn version_and_help() {
    assert!(parse("sandbox --version").version && parse("sandbox -v").version);
    let lines: Vec<&str> = VERSION.lines().collect();
    assert!(
        lines[0].starts_with("runc version ") && lines[1].starts_with("commit: ") && lines[2].starts_with("spec: ")
    );
    for command in
        ["create", "start", "state", "kill", "delete", "list", "run", "doctor", "install", "uninstall", "monitor"]
    {
        let error = Cli::try_parse_from(["sandbox", command, "--help"]).unwrap_err();
        assert!(!error.use_stderr());
    }
}
