//! The shared file system: all that programs expect of a local one, and the host's view of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{any, ours};
use crate::bundle::Root;
use crate::run::Running;
use crate::{Case, Env, host, tree};

pub(super) const CASES: &[Case] = &[
    any("filesystem::calls_on_a_volume", 300, calls_on_a_volume),
    any("filesystem::calls_on_the_root", 300, calls_on_the_root),
    any("filesystem::host_sees_what_the_container_did", 180, host_sees),
    any("filesystem::container_sees_what_the_host_did", 180, container_sees),
    any("filesystem::special_files_and_owners_on_the_host", 120, special_files),
    ours("filesystem::cache_auto", 180, |env| cache(env, "auto")),
    ours("filesystem::cache_never", 180, |env| cache(env, "never")),
    any("filesystem::large_tree", 3600, large_tree),
    any("filesystem::overlays_with_a_volume_as_upper_layer", 180, overlay_inside),
    any("filesystem::times_fit_the_containers_clock", 120, times),
    any("filesystem::several_writers", 300, several_writers),
];

fn report(output: &str, checks: usize) {
    let failed: Vec<&str> = output.lines().filter(|line| !line.ends_with(": ok")).collect();
    assert!(failed.is_empty(), "{} checks failed:\n{}", failed.len(), failed.join("\n"));
    assert_eq!(output.lines().count(), checks, "not all checks ran:\n{output}");
}

fn calls_on_a_volume(env: &Env) {
    let volume = env.directory("volume");
    // The checks themselves must hold on this file system.
    report(&host(&env.probe, &["fs", &volume.to_string_lossy()]), 38);
    let bundle = env.bundle(Root::Busybox).probe(env).bind(&volume, "/volume", &[]).args(&["/probe", "fs", "/volume"]);
    let outcome = env.run(&bundle);
    report(&outcome.stdout, 38);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert_eq!(fs::read_dir(&volume).expect("read").count(), 0, "names left in the volume");
}

fn calls_on_the_root(env: &Env) {
    let bundle = env.bundle(Root::Busybox).probe(env).args(&["/probe", "fs", "/var", "overlay"]);
    fs::create_dir_all(bundle.host_path("/var")).expect("create");
    report(&host(&env.probe, &["fs", &bundle.host_path("/var").to_string_lossy(), "overlay"]), 37);
    let outcome = env.run(&bundle);
    report(&outcome.stdout, 37);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
}

/// Another setting of share.cache than the usual one. Sizes stay the same, so that nothing but the content tells of a change.
fn cache(env: &Env, policy: &str) {
    let volume = env.directory("volume");
    let shared = volume.join("shared");
    fs::write(&shared, "aaaa\nbbbb\n").expect("write");
    let script = "exec 3</volume/shared; read first <&3; echo $first
        read go; read second <&3; echo $second; cat /volume/shared; echo from the guest >/volume/answer
        read go; cat /volume/shared; cp /bin/busybox /volume && /volume/busybox echo runs";
    let bundle = env.bundle(Root::Busybox).bind(&volume, "/volume", &[]).script(script);
    let mut command = env.command(&bundle);
    command.env("SANDBOX_CONFIG", env.file("config.toml", format!("[share]\ncache = \"{policy}\"\n")));
    let mut running = Running::new(command);
    running.expect("aaaa");
    fs::write(&shared, "cccc\ndddd\n").expect("write");
    running.write("\n");
    let second = running.line();
    match policy {
        "never" => assert_eq!(second, "dddd", "an open file has no pages of its own"),
        _ => assert!(["bbbb", "dddd"].contains(&second.as_str()), "{second}"),
    }
    running.expect("cccc");
    running.expect("dddd");
    fs::write(&shared, "eeee\nffff\n").expect("write");
    running.write("\n");
    running.expect("eeee");
    running.expect("ffff");
    running.expect("runs");
    running.finish().ok();
    assert_eq!(fs::read_to_string(volume.join("answer")).expect("read"), "from the guest\n");
}

/// What a container engine in the container does with its volume: layers, copies up, whiteouts, directories that hide others.
fn overlay_inside(env: &Env) {
    let volume = env.directory("volume");
    let script = "set -e; cd /volume; mkdir lower upper work merged lower/dir lower/gone; cp /bin/busybox lower/busybox-tool; echo one >lower/dir/a
        echo two >lower/b; ln -s b lower/link; chown 12:34 lower/b
        mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work merged; cd merged
        cat dir/a link; echo more >>b; rm dir/a; chown -h 5:6 link; rm -r gone; mkdir gone; touch gone/new; mv busybox-tool busybox-moved; ./busybox-moved echo runs
        ls dir | wc -l; ls gone; stat -c %u:%g b link; cd ..; umount merged
        mount -t overlay o -o lowerdir=upper:lower merged; cat merged/b; ls merged/gone merged/dir merged; umount merged";
    let outcome = env.run(&env.bundle(Root::Busybox).privileged().bind(&volume, "/volume", &[]).script(script));
    let expected =
        "one two runs 0 new 12:34 5:6 two more merged: b busybox-moved dir gone link merged/dir: merged/gone: new";
    let words = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!((words.as_str(), outcome.code()), (expected, 0), "{outcome:?}");
    let whiteout = fs::symlink_metadata(volume.join("upper/dir/a")).expect("a whiteout");
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "{whiteout:?}");
}

/// The host gives files their times, the guest has a clock of its own: `make` complains when the two do not fit.
fn times(env: &Env) {
    let script = "import os, time
before = time.time()
open('/written', 'w').write('now')
after, changed = time.time(), os.stat('/written').st_mtime
print('fits' if before - 0.1 < changed < after + 0.1 else (before, changed, after))";
    let outcome = env.run(&env.bundle(Root::Debian).args(&["python3", "-c", script]));
    assert_eq!((outcome.stdout.trim(), outcome.code()), ("fits", 0), "{outcome:?}");
}

fn host_sees(env: &Env) {
    let volume = env.directory("volume");
    let mut session = env.session(env.bundle(Root::Debian).bind(&volume, "/volume", &[]));
    session
        .run("cd /volume && echo text >a && chown 12:34 a && chmod 4711 a && touch -d '2001-02-03 04:05:06.789 UTC' a");
    let stat = fs::metadata(volume.join("a")).expect("stat");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o4711, 12, 34));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (981_173_106, 789_000_000));
    session.run("cd /volume && ln a b && ln -s a c && setfattr -n user.note -v 'from the container' a");
    let (a, b) = (fs::metadata(volume.join("a")).expect("stat"), fs::metadata(volume.join("b")).expect("stat"));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(fs::read_link(volume.join("c")).expect("readlink"), Path::new("a"));
    assert_eq!(
        host("getfattr", &["--only-values", "-n", "user.note", &volume.join("a").to_string_lossy()]),
        "from the container"
    );
    session.run("cd /volume && truncate -s 1G sparse && echo x >>sparse");
    let sparse = fs::metadata(volume.join("sparse")).expect("stat");
    assert!(sparse.len() == (1 << 30) + 2 && sparse.blocks() < 64, "{sparse:?}");
    session.run("mkdir /volume/d && mv /volume/a /volume/d/moved && rm /volume/c");
    assert_eq!(fs::read_to_string(volume.join("d/moved")).expect("read"), "text\n");
    assert!(!volume.join("a").exists() && fs::symlink_metadata(volume.join("c")).is_err());
    // The root file system too.
    session.run("echo made inside >/root/file");
    assert_eq!(fs::read_to_string(session.bundle.host_path("/root/file")).expect("read"), "made inside\n");
    session.end();
}

fn container_sees(env: &Env) {
    let volume = env.directory("volume");
    fs::write(volume.join("before"), "before").expect("write");
    let mut session = env.session(env.bundle(Root::Debian).bind(&volume, "/volume", &[]));
    assert_eq!(session.run("cat /volume/before"), "before");
    // What the host changes later shows when the container looks again; caches may take a moment.
    let mut soon = |command: &str, want: &str| {
        let start = Instant::now();
        loop {
            let (_, got) = session.status(command);
            if got == want {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{command}: {got:?} instead of {want:?}");
        }
    };
    fs::write(volume.join("new"), "new").expect("write");
    soon("cat /volume/new", "new");
    fs::write(volume.join("before"), "changed and longer").expect("write");
    soon("cat /volume/before", "changed and longer");
    fs::remove_file(volume.join("new")).expect("remove");
    soon("ls /volume", "before");
    fs::rename(volume.join("before"), volume.join("after")).expect("rename");
    soon("ls /volume; cat /volume/after", "after\nchanged and longer");
    session.end();
}

fn special_files(env: &Env) {
    let volume = env.directory("volume");
    let bundle = env.bundle(Root::Busybox).bind(&volume, "/volume", &[]).script(
        "cd /volume; mkfifo fifo; mknod null c 1 3; chown 100:101 null; mkdir -m 2775 dir; chgrp 55 dir; touch dir/f
         umask 077; touch private; ls -ln / >/dev/null; echo \"$(stat -c %u:%g dir/f)\"",
    );
    assert_eq!(env.run(&bundle).ok(), "0:55");
    let stat = |name: &str| fs::symlink_metadata(volume.join(name)).expect("stat");
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("null").file_type().is_char_device());
    assert_eq!((stat("null").rdev(), stat("null").uid(), stat("null").gid()), (rustix::fs::makedev(1, 3), 100, 101));
    assert_eq!((stat("dir").mode() & 0o7777, stat("dir/f").gid()), (0o2775, 55));
    assert_eq!(stat("private").mode() & 0o7777, 0o600);
}

/// A tree of 20,000 files (in the lab, where a call takes milliseconds, fewer) with everything that files can have: untarred, listed, hashed, renamed and deleted in the container,
/// and compared at each step with what the host sees.
fn large_tree(env: &Env) {
    let files: usize = std::env::var("SANDBOX_TREE_FILES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(if std::env::var_os("LAB").is_some() { 500 } else { 20_000 });
    let source = env.directory("source");
    tree::make(&source.join("tree"), files).expect("make the tree");
    let tar = source.join("tree.tar");
    host(
        "tar",
        &[
            "-C",
            &source.to_string_lossy(),
            "--xattrs",
            "--sparse",
            "--format=pax",
            "-cf",
            &tar.to_string_lossy(),
            "tree",
        ],
    );
    let native = |path: &Path| host(&env.probe, &["manifest", &path.to_string_lossy()]);
    let original = native(&source.join("tree"));
    assert!(original.lines().count() > files);

    let volume = env.directory("volume");
    let bundle = env.bundle(Root::Debian).probe(env).bind(&source, "/source", &["ro"]).bind(&volume, "/volume", &[]);
    let mut session = env.session(bundle);
    // A step makes some ten calls a file, and in the lab one takes up to 11 ms.
    session.running.patience += Duration::from_millis(150) * u32::try_from(files).expect("a sensible number");
    let clock = Instant::now();
    let step = |what: &str| eprintln!("{:>7.1} s {what}", clock.elapsed().as_secs_f64());

    session.run("tar -C /volume --warning=no-timestamp --xattrs -xpf /source/tree.tar");
    step("untarred");
    same_lines(&original, &native(&volume.join("tree")), "the host's view of the untarred tree");
    step("compared by the host");
    let inside = session.run("/probe manifest /volume/tree");
    step("listed and hashed in the container");
    same_lines(&original, &inside, "the container's view of the untarred tree");
    let count = session.run("find /volume/tree -print0 | tr -cd '\\0' | wc -c");
    assert_eq!(count.parse::<usize>().expect("a number"), original.lines().count() + 1);
    step("found");
    let renamed = session.run("/probe rename /volume/tree");
    assert_eq!(renamed.parse::<usize>().expect("a number"), original.lines().count());
    step("renamed");
    let after = native(&volume.join("tree"));
    assert_eq!(after.lines().count(), original.lines().count());
    assert!(after.lines().all(|line| line.split("\" ").next().is_some_and(|name| name.ends_with(".renamed"))));
    host(&env.probe, &["rename", &source.join("tree").to_string_lossy()]);
    same_lines(&native(&source.join("tree")), &after, "the host's view of the renamed tree");
    session.run("rm -rf /volume/tree");
    step("deleted");
    assert_eq!(fs::read_dir(&volume).expect("read").count(), 0);
    session.end();
}

fn same_lines(want: &str, got: &str, what: &str) {
    let differences: Vec<String> = want
        .lines()
        .zip(got.lines())
        .filter(|(want, got)| want != got)
        .take(5)
        .map(|(want, got)| format!("  - {want}\n  + {got}"))
        .collect();
    assert!(differences.is_empty(), "{what} differs:\n{}", differences.join("\n"));
    assert_eq!(got.lines().count(), want.lines().count(), "{what}: number of entries");
}

/// Processes that write, read and remove side by side neither lose nor mix what they wrote.
fn several_writers(env: &Env) {
    let volume = env.directory("volume");
    let bundle = env.bundle(Root::Debian).bind(&volume, "/volume", &[]).script(
        "cd /volume
         for w in 1 2 3 4 5 6; do (
             for i in $(seq 1 60); do echo $w-$i >f-$w-$i; echo $w >>shared; [ $((i % 3)) = 0 ] && rm f-$w-$i; done
         ) & done
         wait; ls | wc -l; wc -l <shared",
    );
    assert_eq!(env.run(&bundle).ok(), "241\n360");
    assert_eq!(fs::read_to_string(volume.join("f-3-2")).expect("read"), "3-2\n");
}
