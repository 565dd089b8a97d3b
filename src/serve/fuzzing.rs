//! What the fuzz targets reach of the server: parsers that are nobody else's business. Not in any other build.

use super::compression::{DecompressError, Decompressor};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

/// Feeds bytes to the decoder of uploads in pieces of `piece` bytes; at most `bytes_max` come out of it.
pub fn decompress(bytes: &[u8], piece: usize, bytes_max: usize) -> Option<Vec<u8>> {
    let mut decompressor = Decompressor::new().ok()?;
    let mut plain = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        let taken = decompressor.feed(piece, |more| {
            plain.extend_from_slice(more);
            if plain.len() > bytes_max { Err("too much") } else { Ok(()) }
        });
        match taken {
            Ok(()) => {}
            Err(DecompressError::Malformed(_) | DecompressError::Sink(_)) => return None,
        }
    }
    decompressor.is_complete().then_some(plain)
}

/// The build that a call is a part of, as its metadata says. `bytes` is what stands in the header: encoded, or not.
pub fn request_metadata(bytes: &[u8], is_encoded: bool) -> Option<String> {
    let value = match is_encoded {
        // As it came over the wire.
        true => BinaryMetadataValue::try_from(bytes).ok()?,
        false => BinaryMetadataValue::from_bytes(bytes),
    };
    let mut headers = MetadataMap::new();
    headers.insert_bin(super::execution::METADATA_HEADER, value);
    super::execution::part_of(&headers).ok().map(|part_of| part_of.invocation)
}

/// Whether this is the name of an operation.
#[must_use]
pub fn is_operation(name: &str) -> bool {
    super::execution::parse_name(name).is_some()
}
