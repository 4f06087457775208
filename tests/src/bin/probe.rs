//! The program that runs inside containers under test: it does what a shell cannot, and says what it found.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use tests::{fscheck, pattern, see, sys, tree};

const USAGE: &str = "usage: probe fs DIRECTORY [overlay] | lock KIND FILE | make DIRECTORY FILES | manifest DIRECTORY
    | rename DIRECTORY | pattern SEED BYTES | touch-memory MIB | segv | exit STATUS | argv [ARGUMENT...] | see";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The kernel runs this program without arguments when it is the /init of a test's initramfs.
    let result: Result<u8, String> = match arguments.as_slice() {
        ["fs", directory] => Ok(fscheck::all(Path::new(directory), false)),
        ["fs", directory, "overlay"] => Ok(fscheck::all(Path::new(directory), true)),
        ["lock", kind, file] => fscheck::try_lock(kind, Path::new(file)),
        ["make", directory, files] => number(files)
            .and_then(|files| tree::make(Path::new(directory), files).map_err(|error| error.to_string()))
            .map(|()| 0),
        ["manifest", directory] => {
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            tree::manifest(Path::new(directory), &mut out)
                .and_then(|()| out.flush())
                .map_err(|error| error.to_string())
                .map(|()| 0)
        }
        ["rename", directory] => {
            tree::rename_all(Path::new(directory)).map_err(|error| error.to_string()).map(|count| {
                println!("{count}");
                0
            })
        }
        ["pattern", seed, bytes] => number(seed).and_then(|seed| {
            let bytes = number(bytes)?;
            pattern::write(seed as u64, bytes, std::io::stdout().lock()).map_err(|error| error.to_string()).map(|()| 0)
        }),
        ["touch-memory", megabytes] => number(megabytes).map(|megabytes| {
            let mut blocks = Vec::new();
            for index in 0..megabytes {
                blocks.push(vec![index as u8 | 1; 1 << 20]);
            }
            println!("touched {} MiB", std::hint::black_box(&blocks).len());
            0
        }),
        ["segv"] => sys::segmentation_fault(),
        ["exit", status] => number(status).map(|status| status as u8),
        ["argv", rest @ ..] => {
            for argument in rest {
                println!("{}", argument.escape_debug());
            }
            Ok(0)
        }
        ["see", ..] => see::all().map_err(|error| error.to_string()),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::from(2)
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number"))
}
