//! Generates the message and service code from proto/agent.proto.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_server: std::env::var_os("CARGO_FEATURE_ASYNC").is_some(),
            ..Default::default()
        })
        .run()?;
    for file in ["agent.rs", "agent_ttrpc.rs"] {
        without_inner_attributes(&out.join(file))?;
    }
    Ok(())
}

/// `include!` takes no inner attributes (`#![…]`, `//!`); the ones generated only quiet lints, which lib.rs does itself.
fn without_inner_attributes(file: &Path) -> std::io::Result<()> {
    let code = std::fs::read_to_string(file)?;
    let kept: Vec<&str> = code.lines().filter(|l| !l.starts_with("#![") && !l.starts_with("//!")).collect();
    std::fs::write(file, kept.join("\n"))
}
