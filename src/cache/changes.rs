//! Changes that are not on disk yet: at most one for each key. Pure.
//!
//! ```text
//!            then Put      then Remove           then Use
//!   Put      the later     Remove, if of this     Put, used then
//!   Remove   Put           the later              Remove
//!   Use      Put           Remove                 the later
//! ```
//! Invariants: changes of different keys commute, so that their order need not be kept; what is added beyond
//! the bound is refused, unless it replaces a change and is no larger.

use super::entry::{Entry, Key};
use super::limits::ENTRY_OVERHEAD_BYTES;
use std::collections::HashMap;
use std::sync::Arc;

/// What shall happen to one key.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The entry is written over any other.
    Put {
        entry: Arc<Entry>,
        used: u64,
    },
    /// The entry of this stamp is removed; another one stays.
    Remove {
        stamp: u64,
    },
    Use {
        used: u64,
    },
}

impl Change {
    fn cost_bytes(&self) -> u64 {
        match self {
            Change::Put { entry, .. } => entry.cost_bytes(),
            Change::Remove { .. } | Change::Use { .. } => ENTRY_OVERHEAD_BYTES,
        }
    }

    /// This change after an earlier one.
    fn after(self, earlier: Change) -> Change {
        match (earlier, self) {
            (Change::Put { entry, used }, Change::Remove { stamp }) if entry.stamp != stamp => {
                Change::Put { entry, used }
            }
            (Change::Put { entry, .. }, Change::Use { used }) => Change::Put { entry, used },
            (earlier @ Change::Remove { .. }, Change::Use { .. }) => earlier,
            (_, later) => later,
        }
    }
}

/// The changes of one commit.
#[derive(Debug, Default)]
pub(super) struct Changes {
    by_key: HashMap<Key, Change>,
    bytes: u64,
}

impl Changes {
    /// Adds a change. False if there is no room for it.
    pub(super) fn add(&mut self, key: Key, change: Change, bytes_max: u64) -> bool {
        let earlier = self.by_key.get(&key).cloned();
        let before = earlier.as_ref().map_or(0, Change::cost_bytes);
        let change = match earlier {
            Some(earlier) => change.after(earlier),
            None => change,
        };
        let bytes = self.bytes.saturating_sub(before) + change.cost_bytes();
        if bytes > bytes_max && bytes > self.bytes {
            return false;
        }
        self.bytes = bytes;
        self.by_key.insert(key, change);
        true
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Change> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Change)> {
        self.by_key.iter()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Digest, DigestFunction};
    use crate::cache::CachedResult;

    fn key() -> Key {
        Key::new("", &Digest::empty(DigestFunction::Sha256))
    }

    fn put(stamp: u64) -> Change {
        let result = CachedResult { encoded: vec![0; 100].into(), references: Arc::new([]) };
        Change::Put { entry: Arc::new(Entry { stamp, result }), used: stamp }
    }

    fn shown(change: &Change) -> String {
        match change {
            Change::Put { entry, used } => format!("put {} used {used}", entry.stamp),
            Change::Remove { stamp } => format!("remove {stamp}"),
            Change::Use { used } => format!("use {used}"),
        }
    }

    #[test]
    fn two_changes_of_a_key_become_one() {
        let check = |first: Change, second: Change, expected: &str| {
            let mut changes = Changes::default();
            assert!(changes.add(key(), first, 10_000) && changes.add(key(), second, 10_000));
            assert_eq!(shown(changes.get(&key()).unwrap()), expected);
            let bytes: u64 = changes.iter().map(|(_, change)| change.cost_bytes()).sum();
            assert_eq!((changes.bytes(), changes.len()), (bytes, 1));
        };
        check(put(1), put(2), "put 2 used 2");
        check(put(1), Change::Remove { stamp: 1 }, "remove 1");
        check(put(2), Change::Remove { stamp: 1 }, "put 2 used 2");
        check(put(1), Change::Use { used: 5 }, "put 1 used 5");
        check(Change::Remove { stamp: 1 }, put(2), "put 2 used 2");
        check(Change::Remove { stamp: 1 }, Change::Use { used: 2 }, "remove 1");
        check(Change::Use { used: 1 }, put(2), "put 2 used 2");
        check(Change::Use { used: 1 }, Change::Remove { stamp: 0 }, "remove 0");
        check(Change::Use { used: 1 }, Change::Use { used: 2 }, "use 2");
    }

    #[test]
    fn there_is_a_bound() {
        let mut changes = Changes::default();
        assert!(changes.add(key(), put(1), 600));
        let other = Key::new("other", &Digest::empty(DigestFunction::Sha256));
        assert!(!changes.add(other, put(2), 600));
        assert!(changes.add(key(), put(3), 600), "it takes the place of an earlier one");
        assert_eq!((changes.len(), changes.get(&other).is_none()), (1, true));
    }
}
