//! Entries in memory: the least recently used go first. Pure.
//!
//! Invariant: the bytes of all entries together are at most the bound, and each key has one place in the order.

use super::entry::{Entry, Key};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The map.
#[derive(Debug)]
pub(super) struct Hot {
    slots: HashMap<Key, Slot>,
    by_use: BTreeMap<u64, Key>,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    used: u64,
    /// The last use that the disk knows of, or will.
    written_use: u64,
}

/// A find.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// Uses of all entries since the last use of this one that was written.
    pub(super) unwritten: u64,
}

impl Hot {
    pub(super) fn new(bytes_max: u64) -> Self {
        Hot { slots: HashMap::new(), by_use: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Finds an entry and counts that as its use number `now`, which is larger than any before.
    pub(super) fn find(&mut self, key: &Key, now: u64) -> Option<Found> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.by_use.insert(now, *key);
        slot.used = now;
        Some(Found { entry: slot.entry.clone(), unwritten: now.saturating_sub(slot.written_use) })
    }

    /// A use of an entry was noted for the disk.
    pub(super) fn written(&mut self, key: &Key, used: u64) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.written_use = used;
        }
    }

    /// Takes an entry, over an earlier one of its key. One that is larger than the bound is not kept.
    pub(super) fn insert(&mut self, key: Key, entry: Arc<Entry>, now: u64, written_use: u64) {
        self.remove(&key);
        let cost = entry.cost_bytes();
        if cost > self.bytes_max {
            return;
        }
        self.bytes += cost;
        self.by_use.insert(now, key);
        self.slots.insert(key, Slot { entry, used: now, written_use });
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(slot) = self.slots.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(slot.entry.cost_bytes());
            }
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.slots.get(key).map(|slot| &slot.entry)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
            self.bytes = self.bytes.saturating_sub(slot.entry.cost_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Digest, DigestFunction};
    use crate::cache::CachedResult;

    fn key(name: &str) -> Key {
        Key::new(name, &Digest::empty(DigestFunction::Sha256))
    }

    fn entry(bytes: usize) -> Arc<Entry> {
        let result = CachedResult { encoded: vec![0; bytes].into(), references: Arc::new([]) };
        Arc::new(Entry { stamp: 0, result })
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let cost = entry(100).cost_bytes();
        let mut hot = Hot::new(3 * cost);
        for (name, now) in [("a", 1), ("b", 2), ("c", 3)] {
            hot.insert(key(name), entry(100), now, now);
        }
        assert_eq!(hot.find(&key("a"), 4).unwrap().unwritten, 3);
        hot.insert(key("d"), entry(100), 5, 5);
        let there = |hot: &Hot| ["a", "b", "c", "d"].map(|name| hot.get(&key(name)).is_some());
        assert_eq!(there(&hot), [true, false, true, true]);
        hot.insert(key("a"), entry(100), 6, 6);
        hot.insert(key("e"), entry((2 * cost) as usize), 7, 7);
        assert_eq!(there(&hot), [false, false, false, false]);
        assert_eq!((hot.slots.len(), hot.by_use.len()), (1, 1));
        hot.remove(&key("e"));
        assert_eq!((hot.slots.len(), hot.by_use.len(), hot.bytes), (0, 0, 0));
    }

    #[test]
    fn what_is_too_large_replaces_nothing_and_removes_its_predecessor() {
        let mut hot = Hot::new(2 * entry(10).cost_bytes());
        hot.insert(key("a"), entry(10), 1, 1);
        hot.insert(key("b"), entry(10), 2, 2);
        hot.insert(key("a"), entry(100_000), 3, 3);
        assert!(hot.get(&key("a")).is_none() && hot.get(&key("b")).is_some());
    }
}
