//! Names: links, renames, directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Tell, create, errno};

pub(super) fn hard_links(place: &Path) -> Result<(), String> {
    let (a, b) = (place.join("a"), place.join("b"));
    create(&a, b"one")?;
    fs::hard_link(&a, &b).tell("link")?;
    let (stat_a, stat_b) = (fs::metadata(&a).tell("stat")?, fs::metadata(&b).tell("stat")?);
    same!("inode", stat_a.ino(), stat_b.ino());
    same!("links", stat_a.nlink(), 2);
    fs::write(&b, b"two").tell("write")?;
    same!("content by the other name", fs::read(&a).tell("read")?, b"two");
    fs::rename(&a, &b).tell("rename onto the same inode")?;
    same!("both names remain", (a.exists(), b.exists()), (true, true));
    fs::remove_file(&a).tell("unlink")?;
    same!("links", fs::metadata(&b).tell("stat")?.nlink(), 1);
    symlink("b", place.join("symlink")).tell("symlink")?;
    rustix::fs::linkat(CWD, place.join("symlink"), CWD, place.join("symlink2"), AtFlags::empty())
        .tell("link a symlink")?;
    same!("a linked symlink", fs::symlink_metadata(place.join("symlink2")).tell("lstat")?.is_symlink(), true);
    same!(
        "link a directory",
        fs::hard_link(place, place.join("c")).map_err(|error| error.kind()),
        Err(io::ErrorKind::PermissionDenied)
    );
    Ok(())
}

pub(super) fn symlinks(place: &Path) -> Result<(), String> {
    let long = "x/".repeat(2000);
    for (index, target) in
        [&b"plain"[..], b"../up", b"/absolute/nowhere", b"\xff\xfe\n bytes", long.as_bytes()].into_iter().enumerate()
    {
        let link = place.join(format!("link-{index}"));
        symlink(OsStr::from_bytes(target), &link).tell("symlink")?;
        let got = fs::read_link(&link).tell("readlink")?;
        same!("target", got.as_os_str().as_bytes(), target);
        same!("size", fs::symlink_metadata(&link).tell("lstat")?.len(), target.len() as u64);
    }
    symlink("loop-b", place.join("loop-a")).tell("symlink")?;
    symlink("loop-a", place.join("loop-b")).tell("symlink")?;
    same!("a loop", errno(File::open(place.join("loop-a"))), Some(Errno::LOOP));
    create(&place.join("file"), b"x")?;
    symlink("file", place.join("good")).tell("symlink")?;
    let open = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(place.join("good"));
    same!("O_NOFOLLOW", errno(open), Some(Errno::LOOP));
    same!("through the link", fs::read(place.join("good")).tell("read")?, b"x");
    Ok(())
}

pub(super) fn rename(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let mut open = create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    fs::rename(at("a"), at("b")).tell("over a file")?;
    same!("content", fs::read(at("b")).tell("read")?, b"a");
    open.write_all(b"more").tell("write to the renamed file")?;
    same!("content", fs::read(at("b")).tell("read")?, b"amore");
    fs::create_dir_all(at("one/two/three")).tell("mkdir")?;
    fs::create_dir(at("empty")).tell("mkdir")?;
    same!(
        "over a full directory",
        errno(fs::rename(at("empty"), at("one"))).map(|e| e == Errno::NOTEMPTY || e == Errno::EXIST),
        Some(true)
    );
    same!("into itself", errno(fs::rename(at("one"), at("one/two/x"))), Some(Errno::INVAL));
    same!("a file over a directory", errno(fs::rename(at("b"), at("empty"))), Some(Errno::ISDIR));
    same!("a directory over a file", errno(fs::rename(at("empty"), at("b"))), Some(Errno::NOTDIR));
    fs::rename(at("one"), at("empty")).tell("over an empty directory")?;
    same!("what was in it", at("empty/two/three").is_dir(), true);
    create(&at("empty/two/file"), b"moved")?;
    fs::rename(at("empty/two"), at("two")).tell("to another directory")?;
    same!("content", fs::read(at("two/file")).tell("read")?, b"moved");
    Ok(())
}

pub(super) fn rename_exchange(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let exchange = |a: &str, b: &str| rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE);
    create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    exchange("a", "b").tell("two files")?;
    same!(
        "content",
        (fs::read(at("a")).tell("read")?, fs::read(at("b")).tell("read")?),
        (b"b".to_vec(), b"a".to_vec())
    );
    fs::create_dir(at("d")).tell("mkdir")?;
    create(&at("d/inside"), b"")?;
    exchange("a", "d").tell("file and directory")?;
    same!("kinds", (at("a").is_dir(), at("d").is_file(), at("a/inside").exists()), (true, true, true));
    same!("with nothing", exchange("a", "nothing"), Err(Errno::NOENT));
    Ok(())
}

pub(super) fn rename_noreplace(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    let rename = |a: &str, b: &str| rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::NOREPLACE);
    create(&at("a"), b"a")?;
    create(&at("b"), b"b")?;
    same!("onto a file", rename("a", "b"), Err(Errno::EXIST));
    same!("content", fs::read(at("b")).tell("read")?, b"b");
    rename("a", "c").tell("to a new name")?;
    same!("names", (at("a").exists(), at("c").exists()), (false, true));
    Ok(())
}

pub(super) fn rename_whiteout(place: &Path) -> Result<(), String> {
    let at = |name: &str| place.join(name);
    create(&at("a"), b"a")?;
    rustix::fs::renameat_with(CWD, at("a"), CWD, at("b"), RenameFlags::WHITEOUT).tell("rename")?;
    same!("content", fs::read(at("b")).tell("read")?, b"a");
    let stat = fs::symlink_metadata(at("a")).tell("stat")?;
    same!("what is left", (stat.file_type().is_char_device(), stat.rdev()), (true, 0));
    Ok(())
}

pub(super) fn unlinked_open(place: &Path) -> Result<(), String> {
    let path = place.join("file");
    let file = create(&path, b"still here")?;
    let reader = File::open(&path).tell("open")?;
    fs::remove_file(&path).tell("unlink")?;
    same!("links", file.metadata().tell("stat")?.nlink(), 0);
    file.write_all_at(b"STILL", 0).tell("write")?;
    let mut got = [0; 10];
    reader.read_exact_at(&mut got, 0).tell("read")?;
    same!("content", &got, b"STILL here");
    file.set_len(1 << 16).tell("truncate")?;
    same!("size", reader.metadata().tell("stat")?.len(), 1 << 16);
    file.set_permissions(fs::Permissions::from_mode(0o600)).tell("chmod")?;
    create(&path, b"another")?;
    reader.read_exact_at(&mut got, 0).tell("read")?;
    same!("content beside a new file of that name", &got, b"STILL here");
    let directory = place.join("directory");
    fs::create_dir(&directory).tell("mkdir")?;
    let open = File::open(&directory).tell("open directory")?;
    fs::remove_dir(&directory).tell("rmdir")?;
    same!(
        "a removed directory",
        rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).is_err(),
        true
    );
    Ok(())
}

pub(super) fn names(place: &Path) -> Result<(), String> {
    let mut want: Vec<OsString> = Vec::new();
    for byte in (1..=255u8).filter(|byte| *byte != b'/' && *byte != b'.') {
        want.push(OsStr::from_bytes(&[byte]).to_owned());
    }
    let all: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'/').collect();
    want.push(OsStr::from_bytes(&all).to_owned());
    want.push(OsString::from("n".repeat(255)));
    want.push(OsString::from("..."));
    want.push(OsString::from("-rf"));
    for name in &want {
        create(&place.join(name), name.as_bytes())?;
    }
    let mut got = Vec::new();
    for entry in fs::read_dir(place).tell("readdir")? {
        got.push(entry.tell("readdir")?.file_name());
    }
    want.sort();
    got.sort();
    same!("number of names", got.len(), want.len());
    same!("names", got == want, true);
    for name in &want {
        same!("content", fs::read(place.join(name)).tell("read")?, name.as_bytes());
    }
    same!("a name too long", errno(File::create(place.join("n".repeat(256)))), Some(Errno::NAMETOOLONG));
    Ok(())
}

pub(super) fn large_directory(place: &Path) -> Result<(), String> {
    const COUNT: usize = 600;
    for index in 0..COUNT {
        rustix::fs::mknodat(CWD, place.join(format!("entry-{index:05}")), FileType::RegularFile, Mode::RUSR, 0)
            .tell("mknod")?;
    }
    let mut seen: Vec<PathBuf> = Vec::new();
    // Removing while reading must neither skip nor repeat what is not removed.
    for entry in fs::read_dir(place).tell("readdir")? {
        let path = entry.tell("readdir")?.path();
        if seen.len().is_multiple_of(3) {
            fs::remove_file(&path).tell("unlink")?;
        }
        seen.push(path);
    }
    seen.sort();
    seen.dedup();
    same!("entries seen", seen.len(), COUNT);
    same!("entries left", fs::read_dir(place).tell("readdir")?.count(), COUNT - COUNT.div_ceil(3));
    Ok(())
}
