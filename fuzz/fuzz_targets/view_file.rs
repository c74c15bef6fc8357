//! See `qcc_dataplane::fuzzing::view_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_dataplane::fuzzing::view_file(data));
