//! See `qcc_dataplane::fuzzing::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_dataplane::fuzzing::request(data));
