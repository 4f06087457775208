use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A program as far as the builder looks: an ELF header and one program header of the given type.
fn program(segment_type: u32, body: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    elf[18] = 62;
    elf[32] = 64;
    elf[54] = 56;
    elf[56] = 1;
    elf[64..68].copy_from_slice(&segment_type.to_le_bytes());
    elf.extend_from_slice(body);
    elf
}

struct Parsed {
    name: String,
    inode: u32,
    mode: u32,
    mtime: u32,
    owner: (u32, u32),
    content: Vec<u8>,
}

/// Reads an archive back the way the kernel does, and checks the alignment of every part.
fn parse(archive: &[u8]) -> Vec<Parsed> {
    let mut entries = Vec::new();
    let mut at = 0;
    loop {
        assert_eq!(at % 4, 0, "header at {at}");
        assert_eq!(&archive[at..at + 6], b"070701");
        let field = |index: usize| {
            let start = at + 6 + 8 * index;
            u32::from_str_radix(std::str::from_utf8(&archive[start..start + 8]).unwrap(), 16).unwrap()
        };
        let name_end = at + 110 + field(11) as usize;
        assert_eq!(archive[name_end - 1], 0);
        let name = String::from_utf8(archive[at + 110..name_end - 1].to_vec()).unwrap();
        let start = name_end.next_multiple_of(4);
        let end = start + field(6) as usize;
        assert!(archive[name_end..start].iter().all(|byte| *byte == 0));
        if name == "TRAILER!!!" {
            assert_eq!(end, archive.len());
            return entries;
        }
        entries.push(Parsed {
            name,
            inode: field(0),
            mode: field(1),
            owner: (field(2), field(3)),
            mtime: field(5),
            content: archive[start..end].to_vec(),
        });
        at = end.next_multiple_of(4);
    }
}

fn fixture(agent: &[u8]) -> (tempfile::TempDir, Config) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    fs::write(&path, agent).unwrap();
    (directory, Config { agent: path, busybox: None })
}

#[test]
fn holds_the_agent_and_nothing_else() {
    for length in 0..5 {
        let agent = program(1, &vec![0xa5; length]);
        let (_directory, config) = fixture(&agent);
        let entries = parse(&build(&config).unwrap());
        assert_eq!(entries.len(), 1);
        let init = &entries[0];
        assert_eq!((init.name.as_str(), init.mode, init.mtime, init.owner), ("init", 0o100755, 0, (0, 0)));
        assert_eq!(init.content, agent);
    }
}

#[test]
fn same_input_gives_same_bytes() {
    let agent = program(1, b"agent");
    let (_first, one) = fixture(&agent);
    let (_second, two) = fixture(&agent);
    fs::set_permissions(&two.agent, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(build(&one).unwrap(), build(&two).unwrap());
}

#[test]
fn debug_adds_busybox_and_its_links() {
    let (directory, mut config) = fixture(&program(1, b""));
    let busybox = directory.path().join("busybox");
    fs::write(&busybox, program(1, b"busybox")).unwrap();
    config.busybox = Some(busybox);
    let entries = parse(&build(&config).unwrap());
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names[0], "bin");
    assert!(names.is_sorted());
    let shell = entries.iter().find(|entry| entry.name == "bin/sh").unwrap();
    assert_eq!((shell.mode, shell.content.as_slice()), (0o120777, b"busybox".as_slice()));
    let mut inodes: Vec<_> = entries.iter().map(|entry| entry.inode).collect();
    inodes.dedup();
    assert_eq!(inodes.len(), entries.len());
}

#[test]
fn refuses_what_the_guest_could_not_start() {
    let missing = Config { agent: PathBuf::from("/nonexistent/agent"), busybox: None };
    let error = build(&missing).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the agent /nonexistent/agent: "), "{error}");
    for text in [b"#!/bin/sh\n".to_vec(), Vec::new(), program(1, b"")[..60].to_vec()] {
        let (_directory, config) = fixture(&text);
        assert!(matches!(build(&config), Err(BuildError::NotExecutable { .. })));
    }
    let (_directory, config) = fixture(&program(3, b""));
    assert!(matches!(build(&config), Err(BuildError::Dynamic { .. })));
}

#[test]
fn names_stay_inside_the_archive() {
    for name in ["", "/init", "a//b", "a/../b", ".", "a/", "a\0b", "TRAILER!!!"] {
        let result = Archive::default().file(name, 0o644, Vec::new());
        assert_eq!(result, Err(CpioError::Name(name.to_owned())));
    }
}

#[test]
fn writes_in_one_step() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("image");
    fs::write(&output, "old").unwrap();
    write(b"new", &output).unwrap();
    assert_eq!(fs::read(&output).unwrap(), b"new");
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let error = write(b"new", &directory.path().join("missing/image")).unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
}
