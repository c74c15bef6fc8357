//! See `qcc_control::fuzzing::reports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_control::fuzzing::reports(data));
