//! Requests to the guest's agent: whatever comes over the wire, decoding and checking it ends in a plan or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sandbox_agent::fuzzing::take(input));
