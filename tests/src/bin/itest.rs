//! Runs the integration tests on this machine, which must have a KVM that works and be ours: the lab, or a test machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use tests::{Case, Env, For, cases, census, census::Census};

const USAGE: &str = "Usage: itest [OPTION...] [WORD...]

Runs the integration tests whose names hold one of the words, or all.

  --runtime PROGRAM  the runtime to test (default: sandbox; with runc the tests are tested)
  --work DIR         where bundles are made: a real file system (default: /data/itest, or /var/tmp/itest)
  --debian IMAGE     the Debian root file system (default: debian.ext4 in ~/.cache/sandbox/bundles)
  --shard I/N        of N parts of the tests the Ith, so that N machines share the work
  --list             print the names of the tests
  --census           print what is on the machine that containers could leave behind; the words are directories to look into as well
  --keep             keep what failed tests leave in the work directory
  --verbose          print what tests print, even if they pass
  --slow N           multiply all time limits by N";

struct Options {
    runtime: PathBuf,
    work: PathBuf,
    debian: PathBuf,
    list: bool,
    census: bool,
    keep: bool,
    verbose: bool,
    slow: u64,
    shard: (usize, usize),
    one: Option<String>,
    words: Vec<String>,
}

fn options() -> Result<Options, String> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let cache = std::env::var_os("SANDBOX_CACHE").map_or_else(|| home.join(".cache/sandbox"), PathBuf::from);
    let base = if Path::new("/data").is_dir() { "/data/itest" } else { "/var/tmp/itest" };
    let mut options = Options {
        runtime: PathBuf::from("sandbox"),
        work: PathBuf::from(base),
        debian: cache.join("bundles/debian.ext4"),
        list: false,
        census: false,
        keep: false,
        verbose: false,
        slow: 1,
        shard: (1, 1),
        one: None,
        words: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--runtime" => options.runtime = PathBuf::from(value()?),
            "--work" => options.work = PathBuf::from(value()?),
            "--debian" => options.debian = PathBuf::from(value()?),
            "--list" => options.list = true,
            "--census" => options.census = true,
            "--keep" => options.keep = true,
            "--verbose" => options.verbose = true,
            "--slow" => options.slow = value()?.parse().map_err(|_| "--slow needs a number".to_owned())?,
            "--shard" => {
                let parts = value()?;
                options.shard = parts
                    .split_once('/')
                    .and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)))
                    .filter(|(part, parts)| (1..=*parts).contains(part))
                    .ok_or("--shard needs two numbers, as in 1/2")?;
            }
            // One test, in the process that the runner starts for it.
            "--one" => options.one = Some(value()?),
            "--help" | "-h" => return Err(String::new()),
            word if word.starts_with('-') => return Err(format!("unknown option {word}")),
            word => options.words.push(word.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) if error.is_empty() => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("itest: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if options.census {
        let directories: Vec<PathBuf> = options.words.iter().map(PathBuf::from).collect();
        for line in Census::of_machine(&directories).lines() {
            println!("{line}");
        }
        return ExitCode::SUCCESS;
    }
    let env = Env {
        case: String::new(),
        runtime: options.runtime.clone(),
        work: options.work.join("work"),
        debian: options.work.join("debian"),
        busybox: options.work.join("busybox"),
        probe: options.work.join("probe"),
    };
    let mut chosen = cases::all();
    // A word that is a test's whole name means that one.
    let names: Vec<&str> = chosen.iter().map(|case| case.name).collect();
    let means = |word: &String, name: &str| {
        if names.contains(&word.as_str()) { name == word } else { name.contains(word.as_str()) }
    };
    chosen.retain(|case| options.words.is_empty() || options.words.iter().any(|word| means(word, case.name)));
    let (part, parts) = options.shard;
    chosen = chosen.into_iter().skip(part - 1).step_by(parts).collect();
    if options.list {
        for case in chosen {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(name) = &options.one {
        let case = cases::all().into_iter().find(|case| case.name == name).expect("the name of a test");
        (case.run)(&Env { case: case.name.to_owned(), ..env });
        return ExitCode::SUCCESS;
    }
    match run_all(&options, &env, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("itest: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_all(options: &Options, env: &Env, chosen: &[Case]) -> io::Result<bool> {
    // What a test's processes leave running becomes this one's child, and is found.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let _files = Files::set_up(options, env)?;
    // What a first start keeps for later ones (the answer about KVM, say) is not left behind by a test.
    let _ = Command::new(&env.runtime)
        .arg("doctor")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();

    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    let start = Instant::now();
    for case in chosen {
        if case.runtimes == For::Sandbox && env.is_runc() {
            skipped += 1;
            continue;
        }
        print!("{:<52} ", case.name);
        io::stdout().flush()?;
        let clock = Instant::now();
        let result = run_one(options, env, case)?;
        let seconds = clock.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("ok {seconds:>7.1} s");
                if options.verbose {
                    print!("{}", fs::read_to_string(env.work.join("log"))?);
                }
            }
            Err(text) => {
                failed.push(case.name);
                println!("FAILED {seconds:>.1} s");
                for line in text.lines() {
                    println!("    {line}");
                }
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("itest: {:.0} s", start.elapsed().as_secs_f64());
    println!("itest: {passed} passed, {} failed, {skipped} skipped", failed.len());
    Ok(failed.is_empty())
}

/// Root file systems and the test program, in the work directory.
struct Files {
    debian: PathBuf,
}

impl Files {
    fn set_up(options: &Options, env: &Env) -> io::Result<Files> {
        let _ = Command::new("umount").arg("-l").arg(&env.debian).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&env.work);
        for directory in [&env.work, &env.debian, &env.busybox.join("bin")] {
            fs::create_dir_all(directory)?;
        }
        for directory in ["proc", "sys", "dev", "etc", "tmp", "root", "mnt"] {
            fs::create_dir_all(env.busybox.join(directory))?;
        }
        fs::write(env.busybox.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        let busybox = env.busybox.join("bin/busybox");
        fs::copy("/bin/busybox", &busybox)?;
        let applets = Command::new(&busybox).arg("--list").output()?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
            let _ = std::os::unix::fs::symlink("busybox", env.busybox.join("bin").join(applet));
        }
        let here = std::env::current_exe()?;
        fs::copy(here.with_file_name("probe"), &env.probe)?;
        fs::copy(&env.probe, env.busybox.join("bin/probe"))?;
        // A build in the meantime must not change the tests in the middle of a run.
        fs::copy(&here, options.work.join("itest"))?;
        let status = Command::new("mount").args(["-o", "ro,loop"]).arg(&options.debian).arg(&env.debian).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("cannot mount {}: run tests/bundles/make", options.debian.display())));
        }
        Ok(Files { debian: env.debian.clone() })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.debian).status();
    }
}

fn run_one(options: &Options, env: &Env, case: &Case) -> io::Result<Result<(), String>> {
    let log = env.work.join("log");
    let file = File::create(&log)?;
    let before = Census::take();
    let mut child = Command::new(options.work.join("itest"))
        .args(["--one", case.name, "--runtime"])
        .arg(&options.runtime)
        .arg("--work")
        .arg(&options.work)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let status = wait(&mut child, Duration::from_secs(case.seconds * options.slow))?;
    let mut problems = Vec::new();
    match status {
        None => problems.push(format!("no end after {} s", case.seconds * options.slow)),
        Some(status) if !status.success() => problems.push(format!("{status}")),
        Some(_) => {}
    }
    let left = processes_left(Duration::from_secs(if status.is_some() { 3 } else { 0 }));
    problems.extend(left.iter().map(|process| format!("left behind: process {process}")));
    kill_descendants();
    std::thread::sleep(Duration::from_millis(50));
    reap();

    let start = Instant::now();
    let mut differences = Census::take().since(&before);
    while !differences.is_empty() && start.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(50));
        differences = Census::take().since(&before);
    }
    problems.extend(differences);

    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !problems.is_empty() {
        clean_up(env, case);
    }
    let scratch = Env { case: case.name.to_owned(), ..env.clone() }.scratch();
    if problems.is_empty() || !options.keep {
        remove_tree(&scratch);
    }
    if problems.is_empty() {
        return Ok(Ok(()));
    }
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(40)..];
    Ok(Err(format!("{}\n{}", problems.join("\n"), tail.join("\n"))))
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            kill_descendants();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that still run below this one after some patience.
fn processes_left(patience: Duration) -> Vec<String> {
    let start = Instant::now();
    loop {
        reap();
        let left = census::descendants(std::process::id());
        if left.is_empty() || start.elapsed() >= patience {
            return left.iter().map(ToString::to_string).collect();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill_descendants() {
    for process in census::descendants(std::process::id()) {
        if let Some(pid) = Pid::from_raw(process.pid as i32) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Waits for orphans only: the test's own process is waited for by its handle before.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// After a failure: unmounts what the test mounted and removes the runtime's state, so that the next test starts clean.
fn clean_up(env: &Env, case: &Case) {
    let scratch = Env { case: case.name.to_owned(), ..env.clone() }.scratch();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        if let Some(point) = line.split(' ').nth(1).filter(|point| Path::new(point).starts_with(&scratch)) {
            let _ = Command::new("umount").args(["-l", point]).status();
        }
    }
    if env.is_runc() {
        let list = Command::new(&env.runtime).args(["list", "-q"]).output();
        for id in list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default().lines() {
            let _ = Command::new(&env.runtime).args(["delete", "--force", id]).status();
        }
    }
}

fn remove_tree(path: &Path) {
    // rm copes with directories that nobody may search.
    let _ = Command::new("rm").arg("-rf").arg("--one-file-system").arg(path).status();
}
