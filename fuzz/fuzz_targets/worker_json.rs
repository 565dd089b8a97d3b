//! Responses of workers in JSON: the pieces that they come in change nothing.
#![no_main]
use fulgurite::uring::Framing;
use fulgurite::worker::bazel_json::{JsonFraming, decode};
use libfuzzer_sys::fuzz_target;

/// The messages of a stream that comes in pieces of this size, and whether it was one to its end.
fn messages(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<(), String>) {
    let (mut framing, mut messages) = (JsonFraming::new(), Vec::new());
    let end = bytes.chunks(piece.max(1)).try_for_each(|piece| framing.feed(piece, &mut messages));
    let end = end.and_then(|()| framing.finish());
    (
        messages,
        end.map_err(|error| {
            assert!(error.seen.len() <= 1024);
            error.why
        }),
    )
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = messages(bytes, usize::MAX);
    assert_eq!(whole, messages(bytes, usize::from(*piece)));
    for message in &whole.0 {
        let _ = decode(message).map_err(|error| error.to_string());
    }
    // Bytes that no framing has seen.
    let _ = decode(bytes);
});
