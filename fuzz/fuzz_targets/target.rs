//! See `qcc_proto::fuzzing::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcc_proto::fuzzing::target(data));
