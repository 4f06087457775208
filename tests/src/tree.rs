//! Trees of files: making them, and describing them so completely that two descriptions can be compared.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

/// Makes a tree with this many regular files in many directories, with every kind of owner, mode, time, name and attribute.
pub fn make(root: &Path, files: usize) -> io::Result<()> {
    fs::create_dir_all(root)?;
    let mut directories = vec![root.to_owned()];
    for index in 0..files {
        if index % 100 == 0 {
            let parent = &directories[(index / 100) % directories.len().min(7)];
            let directory = parent.join(format!("directory-{index}"));
            fs::create_dir(&directory)?;
            directories.push(directory);
        }
        let directory = &directories[directories.len() - 1];
        let path = directory.join(name(index));
        let mut file = File::create(&path)?;
        match index % 50 {
            // A hole, then data.
            7 => {
                file.set_len(128 << 10)?;
                rustix::io::pwrite(&file, b"end of hole", 124 << 10)?;
            }
            _ => writeln!(file, "{}", format!("content of file {index}\n").repeat(index % 40))?,
        }
        if index % 25 == 3 {
            rustix::fs::fsetxattr(&file, "user.sandbox", format!("value {index}").as_bytes(), XattrFlags::empty())?;
        }
        drop(file);
        if index % 20 == 5 {
            fs::hard_link(&path, directory.join(format!("hard-link-{index}")))?;
        }
        if index % 20 == 6 {
            let link = directory.join(format!("symlink-{index}"));
            symlink(path.file_name().unwrap_or_default(), &link)?;
            times(&link, index)?;
        }
        chown(&path, Some((index % 5) as u32 * 1000), Some((index % 3) as u32 * 500))?;
        let mode = [0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1644, 0o000][index % 7];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        times(&path, index)?;
    }
    for (index, directory) in directories.iter().enumerate().rev() {
        fs::set_permissions(directory, fs::Permissions::from_mode([0o755, 0o2775, 0o1777, 0o700][index % 4]))?;
        times(directory, index)?;
    }
    Ok(())
}

/// Most names are plain; some hold every byte that a name can.
fn name(index: usize) -> PathBuf {
    match index % 40 {
        11 => {
            let bytes: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'/').cycle().skip(index).take(40).collect();
            let mut name = format!("{index}-").into_bytes();
            name.extend(bytes);
            PathBuf::from(OsStr::from_bytes(&name))
        }
        12 => PathBuf::from(format!("{index} näme with späces \u{1f980}")),
        _ => PathBuf::from(format!("file-{index}")),
    }
}

fn times(path: &Path, index: usize) -> io::Result<()> {
    // Nanoseconds that tar keeps, dates before and after 1970.
    let stamp = Timespec {
        tv_sec: 1_000_000_000 + index as i64 * 7919 - 1_100_000_000 * (index as i64 % 2),
        tv_nsec: 123_456_700 + index as i64,
    };
    let stamps = Timestamps { last_access: stamp, last_modification: stamp };
    Ok(rustix::fs::utimensat(CWD, path, &stamps, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// One line for each thing in the tree, sorted by path: type, mode, owner, size, time, links, attributes, content.
pub fn manifest(root: &Path, to: &mut impl Write) -> io::Result<()> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    paths.sort();
    let mut links: HashMap<(u64, u64), usize> = HashMap::new();
    for (index, path) in paths.iter().enumerate() {
        let stat = fs::symlink_metadata(path)?;
        let kind = stat.file_type();
        let relative = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().escape_ascii().to_string();
        write!(to, "{relative:?} {:o} {}:{} ", stat.mode(), stat.uid(), stat.gid())?;
        if kind.is_dir() {
            write!(to, "dir")?;
        } else {
            write!(to, "{}.{:09}", stat.mtime(), stat.mtime_nsec())?;
            // Hard links: the number of the first path with the same inode.
            let first = *links.entry((stat.dev(), stat.ino())).or_insert(index);
            write!(to, " nlink {} same {}", stat.nlink(), first)?;
        }
        if kind.is_file() {
            let (hash, bytes) = hash(path)?;
            let holes = if stat.blocks() * 512 < bytes { "sparse" } else { "full" };
            write!(to, " {bytes} bytes {hash:016x} {holes}")?;
        } else if kind.is_symlink() {
            write!(to, " -> {}", fs::read_link(path)?.as_os_str().as_bytes().escape_ascii())?;
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(to, " device {:x}", stat.rdev())?;
        }
        if !kind.is_symlink() {
            for attribute in attributes(path)? {
                write!(to, " {attribute}")?;
            }
        }
        writeln!(to)?;
    }
    Ok(())
}

/// Appends `.renamed` to every name in the tree.
pub fn rename_all(root: &Path) -> io::Result<usize> {
    let mut paths = Vec::new();
    collect(root, &mut paths)?;
    // Children before their parents.
    paths.sort_by(|a, b| b.cmp(a));
    for path in &paths {
        let mut name = path.clone().into_os_string();
        name.push(".renamed");
        fs::rename(path, name)?;
    }
    Ok(paths.len())
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        let path = entry.path();
        if is_directory {
            collect(&path, paths)?;
        }
        paths.push(path);
    }
    Ok(())
}

/// FNV-1a of a file's content, eight bytes at a time, and its length.
fn hash(path: &Path) -> io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for chunk in content.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
    Ok((hash, content.len() as u64))
}

fn attributes(path: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0u8; 4096];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
        found.push(format!("{}={}", name.escape_ascii(), value[..length].escape_ascii()));
    }
    found.sort();
    Ok(found)
}
