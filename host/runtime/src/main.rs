//! The `sandbox` command. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::cli::main()
}
