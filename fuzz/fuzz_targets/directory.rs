//! Directories: what decodes is canonical, and encodes to something that decodes to the same.
#![no_main]
use fulgurite::action::{DigestFunction, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(directory) = decode::directory(DigestFunction::Sha256, bytes) else { return };
    for name in directory.files.iter().map(|file| &file.name) {
        assert!(!name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']));
    }
    let again = decode::directory(DigestFunction::Sha256, &encode::directory(&directory));
    assert_eq!(again.as_ref(), Ok(&directory));
});
