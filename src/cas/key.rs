//! Keys: how the store names a blob to itself, in memory, in the index and in the log.
//!
//! ```text
//!   0 function (1 sha256, 2 blake3)   1 hash   33
//! ```
//! The size is no part of it: of one hash there is one blob. Whoever asks for another size of it asks for one that is
//! not there.

use crate::action::{Digest, DigestFunction};

/// Function and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub [u8; 33]);

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Bytes that did not choose the shard.
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl Key {
    pub(super) fn of(digest: &Digest) -> Self {
        let mut key = [0; 33];
        key[0] = match digest.function {
            DigestFunction::Sha256 => 1,
            DigestFunction::Blake3 => 2,
        };
        key[1..].copy_from_slice(&digest.hash);
        Key(key)
    }

    /// None if the function is none that is known.
    pub(super) fn parse(bytes: [u8; 33]) -> Option<Self> {
        matches!(bytes[0], 1 | 2).then_some(Key(bytes))
    }

    pub(super) fn digest(&self, size_bytes: u64) -> Digest {
        let function = if self.0[0] == 2 { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
        let mut hash = [0; 32];
        hash.copy_from_slice(&self.0[1..]);
        Digest { function, hash, size_bytes }
    }

    /// Which shard of the memory map it lies in: that of its directory, so that both have the same neighbours.
    pub(super) fn shard(&self) -> usize {
        usize::from(self.0[1])
    }
}
