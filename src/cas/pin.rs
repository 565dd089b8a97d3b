//! Pins: sets of blobs that stay.

use super::CasError;
use super::keeper::Kept;
use super::key::Key;
use super::store::{Note, Presence, Store};
use crate::action::Digest;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keeps a set of blobs from eviction until it is dropped.
#[derive(Debug)]
#[must_use = "the blobs are evictable again once this is dropped"]
pub struct Pin {
    kept: Arc<Kept>,
    /// Those of one shard beside each other, so that each is locked once.
    keys: Vec<Key>,
}

impl Pin {
    /// All or none: found and pinned under the lock that eviction takes.
    pub(super) fn new(kept: &Arc<Kept>, digests: &[Digest]) -> Result<Pin, Vec<Digest>> {
        let store = &kept.store;
        let wanted = ordered(digests);
        let mut pin = Pin { kept: kept.clone(), keys: Vec::with_capacity(wanted.len()) };
        let mut missing = Vec::new();
        let mut suspects = Vec::new();
        let now = store.clock.now();
        for group in wanted.chunk_by(|a, b| a.hash[0] == b.hash[0]) {
            let Some(first) = group.first() else { continue };
            let mut shard = store.shard(&Key::of(first));
            for &digest in group {
                match store.find(&mut shard, digest, Note::Pin, now) {
                    Ok(Presence::Present) => pin.keys.push(Key::of(digest)),
                    Ok(Presence::Suspect) => suspects.push((Key::of(digest), *digest)),
                    Ok(Presence::Absent) | Err(_) => missing.push(*digest),
                }
            }
        }
        let is_ordered = suspects.is_empty();
        for (key, digest) in suspects {
            // Hashed one by one, with no lock held.
            match store.find_sound(&digest, Note::Pin) {
                Ok(true) => pin.keys.push(key),
                Ok(false) | Err(_) => missing.push(digest),
            }
        }
        if !is_ordered {
            pin.keys.sort_unstable_by_key(Key::shard);
        }
        store.counters.pinned.fetch_add(pin.keys.len() as u64, Ordering::Relaxed);
        if missing.is_empty() { Ok(pin) } else { Err(missing) }
    }
}

/// Those of one shard beside each other, and each once.
fn ordered(digests: &[Digest]) -> Vec<&Digest> {
    // By the first bytes of the hash, which are sorted a lot faster than digests.
    let start = |digest: &Digest| {
        let [a, b, c, d, e, f, g, h, ..] = digest.hash;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    };
    let mut wanted: Vec<(u64, &Digest)> = digests.iter().map(|digest| (start(digest), digest)).collect();
    wanted.sort_unstable_by_key(|(start, _)| *start);
    let mut wanted: Vec<&Digest> = wanted.into_iter().map(|(_, digest)| digest).collect();
    // Two of one blob with another one between them, which has the same start, are pinned twice: no harm.
    wanted.dedup();
    wanted
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.kept.store.unpin(&self.keys);
    }
}

impl Store {
    /// Pins a blob for as long as the store is open.
    pub(super) fn pin_forever(&self, digest: &Digest) -> Result<(), CasError> {
        self.find_sound(digest, Note::Pin).map(|_| ())
    }
}
