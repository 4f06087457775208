//! The same bundle run by runc and by sandbox, and what a program sees in it compared. Differences are allowed by the list in
//! [`allowed`] only, each for a reason.

mod allowed;
mod capabilities;
mod compare;
mod defaults;
mod devices;
mod mounts;
mod namespaces;
mod paths;
mod process;
mod resources;
mod seccomp;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::ours;
use crate::bundle::{Bundle, Root};
use crate::run::outcome;
use crate::terminal::{Terminal, size};
use crate::{Case, Env};

pub(super) const CASES: &[Case] = &[
    ours("differential::defaults", 600, |env| run(env, defaults::BUNDLES)),
    ours("differential::namespaces", 600, |env| run(env, namespaces::BUNDLES)),
    ours("differential::capabilities_and_users", 600, |env| run(env, capabilities::BUNDLES)),
    ours("differential::process", 600, |env| run(env, process::BUNDLES)),
    ours("differential::commands", 600, |env| run(env, process::COMMANDS)),
    ours("differential::mounts", 600, |env| run(env, mounts::BUNDLES)),
    ours("differential::bind_mounts", 600, |env| run(env, mounts::BINDS)),
    ours("differential::paths_and_root", 600, |env| run(env, paths::BUNDLES)),
    ours("differential::devices", 600, |env| run(env, devices::BUNDLES)),
    ours("differential::resources", 600, |env| run(env, resources::BUNDLES)),
    ours("differential::seccomp", 600, |env| run(env, seccomp::BUNDLES)),
];

/// A bundle, by what makes it different from the default of [`crate::bundle::default_spec`].
struct Variant {
    name: &'static str,
    make: fn(&Env, Bundle) -> Bundle,
    /// Facts that runc of Debian 12 cannot have, as it does not know the field: what the specification says instead.
    instead: &'static [(&'static str, &'static str)],
}

const fn variant(name: &'static str, make: fn(&Env, Bundle) -> Bundle) -> Variant {
    Variant { name, make, instead: &[] }
}

/// Facts by key, and what was said on standard error.
struct Seen {
    facts: BTreeMap<String, String>,
    stderr: String,
}

fn run(env: &Env, variants: &[Variant]) {
    let mut used = allowed::Used::default();
    // Bundles by what is wrong with them.
    let mut problems: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut ran = 0;
    for (variant, (theirs, ours)) in variants.iter().zip(see_all(env, variants)) {
        ran += usize::from(theirs.ran() && ours.ran());
        for difference in theirs.differences(&ours) {
            if !used.allows(variant.name, &difference) {
                problems.entry(difference.to_string()).or_default().push(variant.name);
            }
        }
        println!("{}: {} facts", variant.name, ours.facts.len());
    }
    let mut lines: Vec<String> =
        problems.into_iter().map(|(difference, bundles)| format!("{difference} [{}]", bundles.join(" "))).collect();
    lines.extend(used.unused(variants.iter().map(|variant| variant.name)));
    keep(env, &lines);
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    // Two that do not run are alike.
    assert!(ran * 4 > variants.len(), "only {ran} of {} bundles ran with both", variants.len());
}

/// The runner shows the end of what a test prints; the whole goes to where the lab keeps things.
fn keep(env: &Env, lines: &[String]) {
    if let Some(directory) = std::env::var_os("LAB_OUT") {
        let file = Path::new(&directory).join(format!("{}.txt", env.case.replace("::", "-")));
        let _ = fs::write(file, lines.join("\n"));
    }
}

impl Seen {
    /// What is not the same. Of a container that did not run it says nothing but that.
    fn differences(&self, sandbox: &Seen) -> Vec<compare::Difference> {
        let said = |seen: &Seen| {
            let exit = seen.facts.get("exit").cloned().unwrap_or_default();
            BTreeMap::from([("exit".to_owned(), format!("{exit} {}", seen.stderr.trim().replace('\n', " | ")))])
        };
        if self.facts.get("exit") != sandbox.facts.get("exit") && self.ran() != sandbox.ran() {
            return compare::differences(&said(self), &said(sandbox));
        }
        compare::differences(&self.facts, &sandbox.facts)
    }

    fn ran(&self) -> bool {
        self.facts.keys().any(|key| key != "exit" && !key.starts_with("left:"))
    }
}

/// Runs all bundles with both runtimes, two bundles at a time: a start is mostly one processor's work.
fn see_all(env: &Env, variants: &[Variant]) -> Vec<(Seen, Seen)> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut seen = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(variant) = variants.get(index) else { break seen };
            seen.push((index, see_both(env, variant)));
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        let mut seen: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
        seen.sort_by_key(|(index, _)| *index);
        seen.into_iter().map(|(_, seen)| seen).collect()
    })
}

fn see_both(env: &Env, variant: &Variant) -> (Seen, Seen) {
    // Directories of the bundle's own.
    let env = Env { work: env.scratch(), case: variant.name.to_owned(), ..env.clone() };
    let mut runc = see(&Env { runtime: PathBuf::from("runc"), ..env.clone() }, variant);
    for (key, value) in variant.instead {
        runc.facts.insert((*key).to_owned(), (*value).to_owned());
    }
    (runc, see(&env, variant))
}

/// Runs a variant's bundle to its end.
fn see(env: &Env, variant: &Variant) -> Seen {
    let who = if env.is_runc() { "runc" } else { "sandbox" };
    let mut bundle = env.bundle_named(Root::Busybox, who);
    // A name of the container's may be seen inside.
    bundle.id = format!("differential-{}", variant.name);
    bundle = (variant.make)(env, bundle.args(&["/bin/probe", "see"]));
    let (code, stdout, stderr) = execute(env, &bundle);
    let mut facts = compare::facts(&stdout);
    facts.insert("exit".to_owned(), code);
    let upper = bundle.path.join("upper");
    left_in_root(&upper, &upper, &mut facts);
    Seen { facts, stderr }
}

fn execute(env: &Env, bundle: &Bundle) -> (String, String, String) {
    bundle.save();
    let mut command = Command::new(&env.runtime);
    if env.is_runc() {
        command.arg("--root").arg(env.directory("runc"));
    }
    command.args(["run", "-b"]).arg(&bundle.path).arg(&bundle.id);
    let (status, stdout, stderr) = if bundle.spec["process"]["terminal"] == json!(true) {
        let (status, screen) = Terminal::start(&command, size(33, 101)).finish();
        (status, screen, String::new())
    } else {
        let outcome = outcome(command);
        (outcome.status, outcome.stdout, outcome.stderr)
    };
    (status.code().map_or_else(|| status.to_string(), |code| code.to_string()), stdout, stderr)
}

/// What is in the root file system afterwards and was not before.
fn left_in_root(upper: &Path, directory: &Path, facts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        let kind = stat.file_type();
        let kind = match () {
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "link",
            () if kind.is_char_device() || kind.is_block_device() => "device",
            () => "file",
        };
        let name = path.strip_prefix(upper).unwrap_or(&path).display().to_string();
        let owner = format!("{}:{}", stat.uid(), stat.gid());
        facts.insert(format!("left:/{name}"), format!("{kind} {:o} {owner}", stat.mode() & 0o7777));
        if stat.is_dir() {
            left_in_root(upper, &path, facts);
        }
    }
}
