//! One part of the map of blobs in memory, behind its own lock.
//!
//! Beside what must be there (see [`super::live`]) it keeps *clean* entries, which say what the index says: those that
//! were asked for lately, also those that are not there. Invariants: a clean entry has what the last commit has of its
//! blob, since whatever changes a row goes through here first; the map grows beyond [`SHARD_ENTRIES`] only if so much
//! must be there. Clean entries take three quarters of that at most. Room is made by a sweep, which costs each
//! insertion O(1): it comes after a quarter was taken anew, and drops what was not asked for again since the last one,
//! down to a half.

use super::key::Key;
use super::limits::SHARD_ENTRIES;
use super::live::{Live, State};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// Entries that have to come in between two sweeps.
const SWEEP_EVERY: usize = SHARD_ENTRIES / 4;

/// Entries at which no clean one is taken any more, so that the others find room until the next sweep.
const CLEAN_UP_TO: usize = SHARD_ENTRIES - SWEEP_EVERY;

#[derive(Debug, Default)]
pub(super) struct Shard {
    map: HashMap<Key, Live, Seeded>,
    /// Entries that came since the last sweep, or wanted to.
    came: usize,
}

impl Shard {
    pub(super) fn get(&self, key: &Key) -> Option<&Live> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Live> {
        self.map.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Live)> {
        self.map.iter()
    }

    /// Takes an entry. One that says what the index says is forgotten if there is no room for it.
    pub(super) fn insert(&mut self, key: Key, live: Live) {
        self.make_room();
        if !live.is_needless() || !self.is_full() {
            self.map.insert(key, live);
        }
    }

    /// The entry of a blob that is about to change.
    pub(super) fn entry_or(&mut self, key: Key, make: impl FnOnce() -> Live) -> &mut Live {
        self.make_room();
        self.map.entry(key).or_insert_with(make)
    }

    /// Takes back one pin.
    pub(super) fn unpin(&mut self, key: &Key) {
        if let Some(live) = self.map.get_mut(key) {
            live.pins = live.pins.saturating_sub(1);
            self.release(key);
        }
    }

    /// Forgets an entry that need not be there any more, unless there is room for it.
    pub(super) fn release(&mut self, key: &Key) {
        let is_full = self.map.len() > CLEAN_UP_TO;
        let is_of_no_use = |live: &Live| live.is_needless() && (is_full || live.state == State::Gone);
        if self.map.get(key).is_some_and(is_of_no_use) {
            self.map.remove(key);
        }
    }

    fn is_full(&self) -> bool {
        self.map.len() >= CLEAN_UP_TO
    }

    fn make_room(&mut self) {
        self.came += 1;
        if self.is_full() && self.came >= SWEEP_EVERY {
            self.came = 0;
            self.sweep();
        }
    }

    /// Down to a half, if so many entries are clean: first those that nobody asked for twice.
    fn sweep(&mut self) {
        self.map.retain(|_, live| !live.is_needless() || std::mem::take(&mut live.is_warm));
        let mut excess = self.map.len().saturating_sub(SHARD_ENTRIES / 2);
        if excess > 0 {
            self.map.retain(|_, live| {
                let goes = excess > 0 && live.is_needless();
                excess -= usize::from(goes);
                !goes
            });
        }
        // After a burst of puts; the table doubles, and never shrinks by itself.
        if self.map.capacity() > 2 * SHARD_ENTRIES && self.map.len() < SHARD_ENTRIES {
            self.map.shrink_to(SHARD_ENTRIES);
        }
    }
}

/// Hashes keys, which are hashes: by one multiplication with a number that nobody outside knows, so that nobody can
/// choose blobs that meet in one place.
#[derive(Clone, Debug)]
pub(super) struct Seeded(u64);

impl Default for Seeded {
    fn default() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        Seeded(*SEED.get_or_init(|| RandomState::new().hash_one(0)))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { seed: self.0, hash: self.0 }
    }
}

/// See [`Seeded`].
pub(super) struct Folded {
    seed: u64,
    hash: u64,
}

impl Hasher for Folded {
    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.hash ^ number) * u128::from(self.seed | 1);
        self.hash = (product as u64) ^ (product >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Digest, DigestFunction};
    use crate::cas::index::Row;

    fn key(number: usize) -> Key {
        Key::of(&Digest::of(DigestFunction::Sha256, &number.to_le_bytes()))
    }

    fn clean() -> Live {
        Live::of(&Row { size_bytes: 1, used: 1, is_suspect: false })
    }

    #[test]
    fn clean_entries_are_bounded_and_others_stay() {
        let mut shard = Shard::default();
        for number in 0..10 * SHARD_ENTRIES {
            match number % 20 {
                0 => shard.insert(key(number), Live { pins: 1, ..clean() }),
                _ => shard.insert(key(number), clean()),
            }
            assert!(shard.map.len() <= SHARD_ENTRIES);
        }
        let pinned = (0..10 * SHARD_ENTRIES).step_by(20);
        assert!(pinned.clone().all(|number| shard.get(&key(number)).is_some()));
        for number in 0..SHARD_ENTRIES {
            shard.entry_or(key(100_000 + number), || Live { is_dirty: true, ..clean() });
        }
        assert_eq!(shard.iter().filter(|(_, live)| live.is_dirty).count(), SHARD_ENTRIES);
        pinned.for_each(|number| shard.unpin(&key(number)));
        let clean = shard.iter().filter(|(_, live)| live.is_needless()).count();
        assert!(clean <= CLEAN_UP_TO, "{clean}");
    }

    #[test]
    fn what_is_asked_for_again_outlives_what_is_not() {
        let mut shard = Shard::default();
        for number in 0..5 * SHARD_ENTRIES {
            shard.insert(key(number), clean());
            for hot in 0..20.min(number) {
                shard.get_mut(&key(hot)).expect("it is hot").is_warm = true;
            }
        }
    }

    #[test]
    fn a_table_that_grew_shrinks_again() {
        let mut shard = Shard::default();
        for number in 0..8 * SHARD_ENTRIES {
            shard.insert(key(number), Live { is_dirty: true, ..clean() });
        }
        for number in 0..8 * SHARD_ENTRIES {
            shard.get_mut(&key(number)).unwrap().is_dirty = false;
            shard.release(&key(number));
        }
        for number in 0..SHARD_ENTRIES {
            shard.insert(key(100_000 + number), clean());
        }
        // Places of what was removed may have made it grow once more meanwhile, by chance of the seed.
        shard.sweep();
        assert!(shard.map.capacity() <= 2 * SHARD_ENTRIES);
    }
}
