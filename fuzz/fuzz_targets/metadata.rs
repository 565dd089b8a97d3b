//! The header that says which build a call belongs to.
#![no_main]
use fulgurite::serve::fuzzing::request_metadata;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for is_encoded in [false, true] {
        if let Some(invocation) = request_metadata(bytes, is_encoded) {
            assert!(invocation.len() <= bytes.len());
        }
    }
});
