//! See `qcc_dataplane::fuzzing::sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_dataplane::fuzzing::sse(data));
