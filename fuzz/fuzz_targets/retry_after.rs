//! See `qcc_proto::fuzzing::retry_after`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_proto::fuzzing::retry_after(data));
