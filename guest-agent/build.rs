//! How the agent is linked.

fn main() {
    // Static at a fixed address: a position-independent agent spends its first milliseconds on ten thousand relocations, each page of
    // which is copied, and carries a quarter of a megabyte of them. Where PID 1 lies is no secret worth that inside a guest: what it
    // protects is the guest's own, and the boundary is the virtual machine.
    println!("cargo:rustc-link-arg-bins=-static");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
