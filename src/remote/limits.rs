//! Bounds of the client.

/// Largest total of blobs in one batch: below gRPC's usual message limit of 4 MiB, with room for the digests.
pub const BATCH_BYTES_MAX: usize = 3 << 20;

/// Largest message taken from a peer: a batch and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
