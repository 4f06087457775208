//! The command line.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::Plain;
use crate::guest_files::GuestFiles;
use crate::run::{self, Options};
use crate::{doctor, monitor, sys};

/// Runs OCI containers, each in a micro-VM of its own.
#[derive(Debug, Parser)]
#[command(name = "sandbox", version = concat!("version ", env!("CARGO_PKG_VERSION")), arg_required_else_help = true)]
struct Cli {
    /// Directory for the state of running containers
    #[arg(long, value_name = "DIR", default_value = "/run/sandbox", global = true, overrides_with = "root")]
    root: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a container from a bundle; ends with its exit status
    Run(RunArguments),
    /// Check what this machine offers, and say how to mend what is missing
    Doctor,
    /// Serve one micro-VM (started by the other commands)
    #[command(hide = true)]
    Monitor,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Directory that holds config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// Kernel of the guest, an uncompressed vmlinux [default: $SANDBOX_KERNEL, else /usr/local/share/sandbox/vmlinux]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initramfs of the guest, with the agent [default: $SANDBOX_INITRAMFS, else /usr/local/share/sandbox/initramfs.cpio]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// Name of the container, unique on this machine
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,
}

/// The program: reads the command line, does what it says.
pub fn main() -> ExitCode {
    let start_ns = sys::now_ns();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Callers know 1 for every failure; help and version are none.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match cli.command {
        Command::Run(arguments) => run(arguments, cli.root, start_ns),
        Command::Doctor => check_machine(&cli.root),
        Command::Monitor => monitor::main(),
    }
}

fn run(arguments: RunArguments, root: PathBuf, start_ns: u64) -> ExitCode {
    let RunArguments { bundle, kernel, initramfs, id } = arguments;
    let installed = GuestFiles::locate();
    let guest =
        GuestFiles { kernel: kernel.unwrap_or(installed.kernel), initramfs: initramfs.unwrap_or(installed.initramfs) };
    match run::run(&Options { id, bundle, root, guest }, start_ns) {
        Ok(status) => ExitCode::from(status),
        Err(error) => failure(&error, error.exit_status()),
    }
}

/// Bundles are looked for where the command is called.
fn check_machine(root: &Path) -> ExitCode {
    match doctor::run(root, Path::new("."), &GuestFiles::locate(), &mut io::stdout().lock()) {
        Ok(healthy) => ExitCode::from(u8::from(!healthy)),
        Err(error) => failure(&format_args!("cannot write the report: {}", Plain(&error)), 1),
    }
}

fn failure(error: &dyn fmt::Display, status: u8) -> ExitCode {
    // stderr may be closed; that is no reason to panic.
    let _ = writeln!(io::stderr(), "sandbox: {error}");
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_bundle_and_root_anywhere() {
        let cli = Cli::try_parse_from(["sandbox", "--root", "/q", "--root", "/r", "run", "-b", "/b", "c1"]).unwrap();
        assert_eq!(cli.root, PathBuf::from("/r"));
        let after = Cli::try_parse_from(["sandbox", "run", "--root", "/r", "c1"]).unwrap();
        assert_eq!(after.root, PathBuf::from("/r"));
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!((run.bundle, run.id.as_str()), (PathBuf::from("/b"), "c1"));
    }

    #[test]
    fn version_and_help() {
        let text = Cli::try_parse_from(["sandbox", "--version"]).unwrap_err().to_string();
        assert!(text.starts_with("sandbox version 0."), "{text}");
        for command in ["run", "doctor", "monitor"] {
            let error = Cli::try_parse_from(["sandbox", command, "--help"]).unwrap_err();
            assert!(!error.use_stderr());
        }
    }
}
