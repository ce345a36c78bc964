//! Fuzzes the port rule. The checks are in `../bodies.rs`, of which each target uses a part.

#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::check_port(data));
