//! The agent's program. Everything is in the library.
#![no_main]

/// The C entry point, and not Rust's `main`: before that one runs, the standard library opens /dev/null for missing
/// descriptors 0 to 2 and aborts where there is none, and at this point the guest has no /dev.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: std::ffi::c_int, _argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
    sandbox_agent::main();
    0
}
