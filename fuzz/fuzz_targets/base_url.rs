//! See `qcc_control::fuzzing::base_url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_control::fuzzing::base_url(data));
