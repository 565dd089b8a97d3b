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
    /// In order, so that each shard is locked once.
    keys: Vec<Key>,
}

impl Pin {
    /// All or none: found and pinned under the lock that eviction takes.
    pub(super) fn new(kept: &Arc<Kept>, digests: &[Digest]) -> Result<Pin, Vec<Digest>> {
        let store = &kept.store;
        let mut wanted: Vec<(Key, Digest)> =
            digests.iter().map(|digest| (Key::of(digest), *digest)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut pin = Pin { kept: kept.clone(), keys: Vec::with_capacity(wanted.len()) };
        let mut missing = Vec::new();
        let mut suspects = Vec::new();
        for group in wanted.chunk_by(|(a, _), (b, _)| a.shard() == b.shard()) {
            let Some((first, _)) = group.first() else { continue };
            let mut shard = store.shard(first);
            for (key, digest) in group {
                match store.find(&mut shard, digest, Note::Pin) {
                    Ok(Presence::Present) => pin.keys.push(*key),
                    Ok(Presence::Suspect) => suspects.push((*key, *digest)),
                    Ok(Presence::Absent) | Err(_) => missing.push(*digest),
                }
            }
        }
        for (key, digest) in suspects {
            // Hashed one by one, with no lock held.
            match store.find_sound(&digest, Note::Pin) {
                Ok(true) => pin.keys.push(key),
                Ok(false) | Err(_) => missing.push(digest),
            }
        }
        pin.keys.sort_unstable();
        store.counters.pinned.fetch_add(pin.keys.len() as u64, Ordering::Relaxed);
        if missing.is_empty() { Ok(pin) } else { Err(missing) }
    }
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
