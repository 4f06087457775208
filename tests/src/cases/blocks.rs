//! Block devices of the host in a container: loop devices, as tests can have them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use super::{any, ours};
use crate::bundle::{Bundle, Root};
use crate::{Case, Env, host};

pub(super) const CASES: &[Case] = &[
    any("blocks::read_and_written", 240, read_and_written),
    any("blocks::a_file_system", 480, a_file_system),
    any("blocks::reading_only", 240, reading_only),
    ours("blocks::in_a_user_namespace", 240, in_a_user_namespace),
    ours("blocks::a_rule_for_all_gives_none", 240, a_rule_for_all_gives_none),
    ours("blocks::of_the_guest_itself", 240, of_the_guest_itself),
    ours("blocks::one_that_is_not_there", 120, one_that_is_not_there),
];

const SIZE: usize = 16 << 20;

/// A loop device, gone when dropped.
struct Disk {
    node: PathBuf,
    numbers: (u32, u32),
}

impl Disk {
    /// Over a new file of sectors that hold their numbers.
    fn new(env: &Env, name: &str, options: &[&str]) -> Disk {
        let content: Vec<u8> = (0..SIZE / 4).flat_map(|word| (word as u32 / 128).to_le_bytes()).collect();
        let file = env.file(name, content);
        let file = file.to_string_lossy();
        let node = host("losetup", &[&["--find", "--show"][..], options, &[&*file]].concat());
        let node = PathBuf::from(node.trim());
        let device = fs::metadata(&node).expect("the loop device").rdev();
        Disk { node, numbers: (major(device), minor(device)) }
    }

    fn device(&self, path: &str) -> Value {
        let (major, minor) = self.numbers;
        json!({ "path": path, "type": "b", "major": major, "minor": minor, "fileMode": 0o640, "uid": 3, "gid": 4 })
    }

    fn rule(&self, access: &str) -> Value {
        let (major, minor) = self.numbers;
        json!({ "allow": true, "type": "b", "major": major, "minor": minor, "access": access })
    }

    /// What the host sees at the start of a sector.
    fn read(&self, sector: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        let node = File::open(&self.node).expect("open the loop device");
        node.read_exact_at(&mut data, sector * 512).expect("read the loop device");
        data
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match Command::new("losetup").arg("--detach").arg(&self.node).output() {
            Ok(output) if output.status.success() => {}
            other => eprintln!("losetup --detach {}: {other:?}", self.node.display()),
        }
    }
}

fn with(bundle: Bundle, devices: &[Value], rules: &[Value]) -> Bundle {
    let rules = [&[json!({ "allow": false, "access": "rwm" })], rules].concat();
    bundle.set("/linux/devices", json!(devices)).set("/linux/resources/devices", json!(rules))
}

fn read_and_written(env: &Env) {
    let (one, two) = (Disk::new(env, "one", &[]), Disk::new(env, "two", &[]));
    let bundle = with(
        env.bundle(Root::Debian),
        &[one.device("/dev/one"), two.device("/dev/disks/two"), one.device("/dev/again")],
        &[one.rule("rwm"), two.rule("rw")],
    );
    let outcome = env.run(&bundle.script(
        "stat -c '%F %a %u:%g' /dev/one /dev/disks/two
         blockdev --getsize64 --getss --getro /dev/one | xargs
         for sector in 0 1 258 32767; do dd if=/dev/one bs=512 skip=$sector count=1 2>/dev/null | od -v -An -tu4 | tr -s ' ' '\\n' | sort -u | xargs; done
         cmp /dev/one /dev/disks/two && echo same
         printf 'from the container' | dd of=/dev/disks/two bs=512 seek=100 conv=notrunc,fsync 2>/dev/null && echo written
         dd if=/dev/zero of=/dev/again bs=1M count=8 seek=4 conv=notrunc,fsync 2>/dev/null && echo zeroed
         cmp -l -n 4194304 /dev/one /dev/disks/two | wc -l
         (dd if=/dev/one bs=512 skip=32768 count=1 2>/dev/null | wc -c)",
    ));
    let expected = "block special file 640 3:4\nblock special file 640 3:4\n16777216 512 0\n0\n1\n258\n32767\nsame\nwritten\nzeroed\n18\n0";
    assert_eq!(outcome.ok(), expected);
    assert_eq!(two.read(100, 18), b"from the container");
    assert_eq!(two.read(101, 4), 101u32.to_le_bytes());
    assert_eq!((one.read(8191, 4), one.read(8192, 4)), (8191u32.to_le_bytes().to_vec(), vec![0; 4]));
    assert_eq!((one.read(24575, 4), one.read(24576, 4)), (vec![0; 4], 24576u32.to_le_bytes().to_vec()));
}

/// Made and filled in the container, read by the host and then by another container.
fn a_file_system(env: &Env) {
    let disk = Disk::new(env, "disk", &[]);
    let bundle = |name: &str| {
        with(env.bundle_named(Root::Debian, name).privileged(), &[disk.device("/dev/disk")], &[disk.rule("rwm")])
    };
    let make = "mkfs.ext4 -q /dev/disk && mount /dev/disk /mnt && seq 20000 >/mnt/numbers && df -t ext4 /mnt | wc -l && umount /mnt";
    assert_eq!(env.run(&bundle("first").script(make)).ok(), "2");
    let place = env.directory("place");
    let path = place.to_string_lossy();
    host("mount", &["-o", "ro", &disk.node.to_string_lossy(), &path]);
    let numbers = fs::read_to_string(place.join("numbers"));
    host("umount", &[&path]);
    assert_eq!(numbers.expect("the container's file").lines().count(), 20_000);
    // Left mounted: what is written is there all the same once the container has ended.
    let change = "mount /dev/disk /mnt && tail -n 1 /mnt/numbers && echo more >>/mnt/numbers";
    assert_eq!(env.run(&bundle("second").script(change)).ok(), "20000");
    assert_eq!(
        env.run(&bundle("third").script("mount /dev/disk /mnt && tail -n 1 /mnt/numbers && umount /mnt")).ok(),
        "more"
    );
}

/// Loop devices are the guest's own: images are mounted as on any machine.
fn of_the_guest_itself(env: &Env) {
    let devices = json!([
        { "path": "/dev/loop-control", "type": "c", "major": 10, "minor": 237 },
        { "path": "/dev/loop0", "type": "b", "major": 7, "minor": 0 },
    ]);
    let all = json!([{ "allow": true, "access": "rwm" }]);
    let bundle =
        env.bundle(Root::Debian).privileged().set("/linux/devices", devices).set("/linux/resources/devices", all);
    let outcome = env.run(&bundle.script(
        "set -e
         exec 2>&1
         truncate -s 16M /tmp/image
         mkfs.ext4 -q /tmp/image
         mount -o loop /tmp/image /mnt
         echo kept >/mnt/file
         umount /mnt
         mke2fs -q -t ext2 /tmp/image
         mount -t ext2 -o loop /tmp/image /mnt
         ls -A /mnt
         umount /mnt
         losetup --all",
    ));
    assert_eq!(outcome.ok(), "lost+found");
}

fn reading_only(env: &Env) {
    let (by_rule, by_itself) = (Disk::new(env, "rule", &[]), Disk::new(env, "itself", &["--read-only"]));
    let bundle = with(
        env.bundle(Root::Debian),
        &[by_rule.device("/dev/rule"), by_itself.device("/dev/itself")],
        &[by_rule.rule("r"), by_itself.rule("rwm")],
    );
    let outcome = env.run(&bundle.script(
        "for disk in rule itself; do
             dd if=/dev/$disk bs=512 skip=7 count=1 2>/dev/null | od -An -tu4 -N4 | xargs
             echo x 2>/dev/null | dd of=/dev/$disk conv=notrunc,fsync 2>/dev/null || echo refused
         done
         (: >/dev/rule) 2>&1 | grep -o 'not permitted'
         blockdev --getro /dev/itself",
    ));
    assert_eq!(outcome.ok(), "7\nrefused\n7\nrefused\nnot permitted\n1");
    assert_eq!((by_rule.read(0, 4), by_itself.read(0, 4)), (vec![0; 4], vec![0; 4]));
}

fn in_a_user_namespace(env: &Env) {
    let mapping = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    let disk = Disk::new(env, "disk", &[]);
    let bundle = env.bundle(Root::Debian);
    host("chown", &["100000:100000", &bundle.host_path("/").to_string_lossy()]);
    let bundle = with(bundle, &[disk.device("/dev/disk")], &[disk.rule("rw")])
        .namespace(json!({ "type": "user" }))
        .set("/linux/uidMappings", mapping.clone())
        .set("/linux/gidMappings", mapping);
    let script =
        "stat -c '%F %u:%g' /dev/disk; dd if=/dev/disk bs=512 skip=9 count=1 2>/dev/null | od -An -tu4 -N4 | xargs";
    assert_eq!(env.run(&bundle.script(script)).ok(), "block special file 3:4\n9");
}

/// As docker writes it for `--privileged`: the host's disks are not the container's.
fn a_rule_for_all_gives_none(env: &Env) {
    let disk = Disk::new(env, "disk", &[]);
    let bundle = env.bundle(Root::Debian).privileged().set("/linux/devices", json!([disk.device("/dev/disk")]));
    let bundle = bundle.set("/linux/resources/devices", json!([{ "allow": true, "access": "rwm" }]));
    let script =
        "ls /sys/block | grep -c '^vd'; [ -b /dev/disk ] && echo node; dd if=/dev/disk count=1 2>/dev/null | wc -c";
    assert_eq!(env.run(&bundle.script(script)).ok(), "0\nnode\n0");
}

/// Its node leads to nothing, and the caller is told.
fn one_that_is_not_there(env: &Env) {
    let device = json!({ "path": "/dev/none", "type": "b", "major": 4000, "minor": 1 });
    let rule = json!({ "allow": true, "type": "b", "major": 4000, "minor": 1, "access": "rw" });
    let outcome = env.run(&with(env.bundle(Root::Busybox), &[device], &[rule]).script("[ -b /dev/none ] && echo node"));
    assert_eq!(outcome.ok(), "node");
    assert!(outcome.stderr.contains("the host has no block device 4000:1"), "{outcome:?}");
}
