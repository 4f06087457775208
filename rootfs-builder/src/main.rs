//! The command line of the initramfs builder.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rootfs_builder::{BuildError, Config, build, write};

/// Writes the guest's initramfs: a reproducible cpio archive with the agent as /init.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The guest agent, a static executable
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Where to write the image
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Add busybox and links to its tools, for a debug console
    #[arg(long)]
    debug: bool,
    /// The static busybox to add; Debian's busybox-static installs the default
    #[arg(long, value_name = "FILE", requires = "debug", default_value = "/bin/busybox")]
    busybox: PathBuf,
}

fn run(arguments: Arguments) -> Result<(), BuildError> {
    let config = Config { agent: arguments.agent, busybox: arguments.debug.then_some(arguments.busybox) };
    write(&build(&config)?, &arguments.output)
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rootfs-builder: {error}");
            ExitCode::FAILURE
        }
    }
}
