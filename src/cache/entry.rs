//! One entry: its key, and how both lie on disk.
//!
//! ```text
//!   key     blake3(tenant) 32 │ function 1 │ hash of the action 32 │ size of the action 8, big-endian
//!   value   checksum 8 │ stamp 8 │ references 4 │ (hash 32 │ size 8) … │ encoded result
//! ```
//! Numbers of values are little-endian. The checksum is the beginning of the BLAKE3 of the key and what follows it.
//!
//! Invariants: two tenants have no key in common, nor do two digest functions; a value that does not fit its key or
//! its checksum is no entry. Limits: all references are of the function that the key names.

use super::limits::ENTRY_OVERHEAD_BYTES;
use crate::action::{Digest, DigestFunction};
use bytes::Bytes;
use std::sync::Arc;

pub(super) const KEY_BYTES: usize = 73;
const CHECKSUM_BYTES: usize = 8;
const HEADER_BYTES: usize = CHECKSUM_BYTES + 8 + 4;
const REFERENCE_BYTES: usize = 40;

/// Names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(pub(super) [u8; KEY_BYTES]);

impl Key {
    pub(super) fn new(tenant: &str, action: &Digest) -> Self {
        let mut key = [0; KEY_BYTES];
        key[..32].copy_from_slice(blake3::hash(tenant.as_bytes()).as_bytes());
        key[32] = match action.function {
            DigestFunction::Sha256 => 1,
            DigestFunction::Blake3 => 9,
        };
        key[33..65].copy_from_slice(&action.hash);
        key[65..].copy_from_slice(&action.size_bytes.to_be_bytes());
        Key(key)
    }
}

/// A result as it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedResult {
    /// The encoded ActionResult, as it was put.
    pub encoded: Bytes,
    /// Every blob that it needs, those inside Trees too; without the empty blob, which is always there.
    pub references: Arc<[Digest]>,
}

/// A result with the number of the put that brought it: two entries of one key differ in it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stamp: u64,
    pub(super) result: CachedResult,
}

impl Entry {
    /// What it costs in memory.
    pub(super) fn cost_bytes(&self) -> u64 {
        let references = self.result.references.len() * size_of::<Digest>();
        (self.result.encoded.len() + references) as u64 + ENTRY_OVERHEAD_BYTES
    }

    pub(super) fn to_bytes(&self, key: &Key) -> Vec<u8> {
        let CachedResult { encoded, references } = &self.result;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + references.len() * REFERENCE_BYTES + encoded.len());
        bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
        bytes.extend_from_slice(&self.stamp.to_le_bytes());
        // Put refuses more than REFERENCES_MAX.
        bytes.extend_from_slice(&u32::try_from(references.len()).unwrap_or(u32::MAX).to_le_bytes());
        for reference in references.iter() {
            bytes.extend_from_slice(&reference.hash);
            bytes.extend_from_slice(&reference.size_bytes.to_le_bytes());
        }
        bytes.extend_from_slice(encoded);
        let sum = checksum(key, &bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&sum);
        bytes
    }

    /// The entry that a value is; `None` if it is none.
    pub(super) fn from_bytes(key: &Key, function: DigestFunction, bytes: &[u8]) -> Option<Self> {
        let stamp = stamp_of(bytes)?;
        if bytes[..CHECKSUM_BYTES] != checksum(key, &bytes[CHECKSUM_BYTES..]) {
            return None;
        }
        let count = u32::from_le_bytes(bytes.get(CHECKSUM_BYTES + 8..HEADER_BYTES)?.try_into().ok()?);
        let split = usize::try_from(count).ok()?.checked_mul(REFERENCE_BYTES)?;
        let (references, encoded) = bytes[HEADER_BYTES..].split_at_checked(split)?;
        let references = references
            .chunks_exact(REFERENCE_BYTES)
            .filter_map(|pair| {
                let (hash, size) = pair.split_at(32);
                let size_bytes = u64::from_le_bytes(size.try_into().ok()?);
                Some(Digest { function, hash: hash.try_into().ok()?, size_bytes })
            })
            .collect();
        Some(Entry { stamp, result: CachedResult { encoded: Bytes::copy_from_slice(encoded), references } })
    }
}

/// The stamp within a value, of which nothing else is looked at.
pub(super) fn stamp_of(bytes: &[u8]) -> Option<u64> {
    let header = bytes.get(..HEADER_BYTES)?;
    Some(u64::from_le_bytes(header[CHECKSUM_BYTES..CHECKSUM_BYTES + 8].try_into().ok()?))
}

fn checksum(key: &Key, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.0).update(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(stamp: u64, references: &[&[u8]], encoded: &[u8]) -> Entry {
        let references = references.iter().map(|bytes| Digest::of(DigestFunction::Sha256, bytes)).collect();
        Entry { stamp, result: CachedResult { encoded: Bytes::copy_from_slice(encoded), references } }
    }

    fn key(tenant: &str) -> Key {
        Key::new(tenant, &Digest::of(DigestFunction::Sha256, b"action"))
    }

    #[test]
    fn keys_separate_tenants_functions_and_sizes() {
        let action = Digest::of(DigestFunction::Sha256, b"action");
        let other_function = Digest { function: DigestFunction::Blake3, ..action };
        let other_size = Digest { size_bytes: 7, ..action };
        let keys = [
            Key::new("", &action),
            Key::new("a", &action),
            Key::new("", &other_function),
            Key::new("", &other_size),
        ];
        let distinct: std::collections::HashSet<Key> = keys.into_iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(key("a"), key("a"));
    }

    #[test]
    fn a_value_is_read_as_it_was_written_and_under_its_own_key_only() {
        for references in [&[][..], &[&b"a"[..]], &[&b"a"[..], b"b"]] {
            let entry = entry(7, references, b"result");
            let bytes = entry.to_bytes(&key("a"));
            let read = Entry::from_bytes(&key("a"), DigestFunction::Sha256, &bytes).unwrap();
            assert_eq!((read.stamp, &read.result), (7, &entry.result));
            assert_eq!(stamp_of(&bytes), Some(7));
            assert!(Entry::from_bytes(&key("b"), DigestFunction::Sha256, &bytes).is_none());
        }
    }

    #[test]
    fn a_damaged_value_is_no_entry() {
        let bytes = entry(1, &[b"a"], b"result").to_bytes(&key("a"));
        let read = |bytes: &[u8]| Entry::from_bytes(&key("a"), DigestFunction::Sha256, bytes);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(read(&flipped).is_none(), "byte {at}");
            assert!(read(&bytes[..at]).is_none(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_value_brings_the_reader_down(bytes: Vec<u8>) {
            let _ = Entry::from_bytes(&key("a"), DigestFunction::Blake3, &bytes);
        }
    }
}
