//! Actions: no bytes are too odd.
#![no_main]
use fulgurite::action::{DigestFunction, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for function in DigestFunction::ALL {
        let _ = decode::action(function, bytes);
    }
});
