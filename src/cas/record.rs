//! Records of the put log: pure.
//!
//! ```text
//!    0 kind (1 put, 2 remove)   1 function   2 zeros   4 generation   8 hash   40 size   48 boot   56 checksum   64
//! ```
//! Numbers are little-endian. The checksum is the first 8 bytes of BLAKE3 over what stands before it. Invariant: a
//! torn record, or one of a file's earlier use, is not taken for one: the checksum covers the generation.

use super::key::Key;

/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 64;

/// What happened to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It was, or was about to be, put in its place.
    Put,
    /// It was, or was about to be, taken from its place.
    Removed,
}

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub event: Event,
    pub key: Key,
    pub size_bytes: u64,
    /// Which use of the log file it belongs to.
    pub generation: u32,
    /// Which boot of the machine wrote it.
    pub boot: [u8; 8],
}

impl Record {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = match self.event {
            Event::Put => 1,
            Event::Removed => 2,
        };
        bytes[1] = self.key.0[0];
        bytes[4..8].copy_from_slice(&self.generation.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.key.0[1..]);
        bytes[40..48].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.boot);
        let sum = checksum(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum);
        bytes
    }

    /// None if these bytes are no whole record.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
        let event = match bytes[0] {
            1 => Event::Put,
            2 => Event::Removed,
            _ => return None,
        };
        if bytes[56..] != checksum(&bytes[..56]) {
            return None;
        }
        let mut key = [0; 33];
        key[0] = bytes[1];
        key[1..].copy_from_slice(&bytes[8..40]);
        Some(Record {
            event,
            key: Key::parse(key)?,
            size_bytes: u64::from_le_bytes(piece(&bytes[40..48])),
            generation: u32::from_le_bytes(piece(&bytes[4..8])),
            boot: piece(&bytes[48..56]),
        })
    }
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    piece(&blake3::hash(bytes).as_bytes()[..8])
}

/// The first `N` bytes; zeros where there are fewer.
fn piece<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut piece = [0; N];
    for (to, from) in piece.iter_mut().zip(bytes) {
        *to = *from;
    }
    piece
}

/// What the fuzz targets reach of it.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::{RECORD_BYTES, Record, checksum};

    /// Reads a record, as it is and with a checksum that fits; one that is read says the same when it is written.
    pub fn log_record(bytes: [u8; RECORD_BYTES]) {
        let mut summed = bytes;
        summed[56..].copy_from_slice(&checksum(&bytes[..56]));
        for bytes in [bytes, summed] {
            if let Some(record) = Record::decode(&bytes) {
                assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Digest, DigestFunction};
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<bool>(), any::<bool>(), any::<[u8; 8]>(), any::<u64>(), any::<u32>(), any::<[u8; 8]>())
            .prop_map(|(is_put, is_sha256, content, size_bytes, generation, boot)| {
                let function = DigestFunction::ALL[usize::from(is_sha256)];
                let key = Key::of(&Digest::of(function, &content));
                let event = if is_put { Event::Put } else { Event::Removed };
                Record { event, key, size_bytes, generation, boot }
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(record in any_record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn a_changed_record_is_none(record in any_record(), at in 0usize..64, bit in 0u8..8) {
            let mut bytes = record.encode();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn a_torn_record_is_none(record in any_record(), kept in 0usize..63) {
            let mut bytes = record.encode();
            let whole = bytes;
            bytes[kept..].fill(0);
            prop_assume!(bytes != whole);
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }

    #[test]
    fn a_hole_is_no_record() {
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None);
    }
}
