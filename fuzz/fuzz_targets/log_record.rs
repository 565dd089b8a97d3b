//! Records of the store's put log.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; 64]| fulgurite::cas::fuzzing::log_record(bytes));
