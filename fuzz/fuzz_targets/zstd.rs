//! Compressed uploads: no bytes are too odd, and what comes out does not depend on the pieces that they came in.
//!
//! Whether a frame that lies about its size is taken does: zstd compares only where it sees the frame whole. What comes
//! out of an upload is compared with its digest in any case.
#![no_main]
use fulgurite::serve::fuzzing::decompress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let one = decompress(bytes, usize::from(*piece), 1 << 20);
    let other = decompress(bytes, usize::MAX, 1 << 20);
    if let (Some(one), Some(other)) = (one, other) {
        assert_eq!(one, other);
    }
});
