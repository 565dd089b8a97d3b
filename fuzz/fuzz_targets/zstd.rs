//! Compressed uploads: no bytes are too odd, and the pieces that they come in do not matter.
#![no_main]
use fulgurite::serve::fuzzing::decompress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let one = decompress(bytes, usize::from(*piece), 1 << 20);
    let other = decompress(bytes, usize::MAX, 1 << 20);
    assert_eq!(one, other);
});
