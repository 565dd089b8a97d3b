//! Digests of files that were hashed before.
//!
//! Invariant: a digest is remembered only of a file whose times were older than the clock's grain when it was read, so
//! that a later write must have changed them. Limits: bounded; when it is full, what was not asked for since the last
//! time it was full is forgotten.

use crate::action::{Digest, DigestFunction};
use rustix::fs::Stat;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A write within this time of another may leave the same times behind: the kernel's clock for them ticks at 250 Hz at
/// least, and filesystems keep whole seconds at worst (ext3, HFS+).
const GRAIN_NS: i128 = 2_000_000_000;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    /// Of a file.
    #[must_use]
    pub fn of(stat: &Stat) -> Stamp {
        let ns = |seconds: i64, nanos: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            changed_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn is_settled(&self, now_ns: i128) -> bool {
        now_ns - self.changed_ns.max(self.modified_ns) > GRAIN_NS
    }
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<(Stamp, DigestFunction), Digest>,
    old: HashMap<(Stamp, DigestFunction), Digest>,
}

/// See the module's documentation. Shared by all threads.
#[derive(Debug)]
pub struct DigestMemory {
    generations: Mutex<Generations>,
    generation_max: usize,
}

impl DigestMemory {
    /// Remembers up to `files_max` files.
    #[must_use]
    pub fn new(files_max: usize) -> Self {
        DigestMemory { generations: Mutex::default(), generation_max: (files_max / 2).max(1) }
    }

    /// The digest of a file in this state.
    #[must_use]
    pub fn get(&self, stamp: &Stamp, function: DigestFunction) -> Option<Digest> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*stamp, function);
        if let Some(digest) = generations.young.get(&key) {
            return Some(*digest);
        }
        let digest = generations.old.remove(&key)?;
        self.insert(&mut generations, key, digest);
        Some(digest)
    }

    /// Remembers what was read between two looks that gave the same `stamp`, at `now_ns` since 1970.
    pub fn put(&self, stamp: Stamp, function: DigestFunction, digest: Digest, now_ns: i128) {
        if stamp.is_settled(now_ns) {
            let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
            self.insert(&mut generations, (stamp, function), digest);
        }
    }

    fn insert(&self, generations: &mut Generations, key: (Stamp, DigestFunction), digest: Digest) {
        if generations.young.len() >= self.generation_max {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, digest);
    }
}
