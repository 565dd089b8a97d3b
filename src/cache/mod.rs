//! The action cache: what came of actions that need not run again.
//!
//! ```text
//!   put ──► hot (memory, by bytes) ──────────────► get ──► all blobs there? ── yes ─► the result
//!     └───► waiting ─► writing ─► action-cache.redb ─┘          └── no ─► removed, a miss
//!           one commit for all changes of an interval
//! ```
//! A hit costs a look into a map and the check that every blob that the result needs is in the store, also those inside
//! its Trees; [`decode::references`] lists them once, when the result is put.
//!
//! Invariants:
//! - nothing is served that points at nothing: the check comes before each answer, and counts as a use of the blobs;
//! - tenants and digest functions never see each other's entries: both are part of the key;
//! - the file opens after a kill at any instruction, with all that an earlier [`ActionCache::flush`] wrote; a file that
//!   cannot be used is moved aside, not served.
//!
//! Limits: the newest entries, of less than a second, go with the process; losing an entry is a miss. Whoever puts has
//! to know that the result is right: nothing here can tell.

mod changes;
pub mod decode;
mod disk;
mod entry;
mod error;
mod heal;
mod hot;
pub mod limits;
#[cfg(test)]
mod tests;
mod writer;

pub use entry::CachedResult;
pub use error::CacheError;

use crate::action::{Digest, DigestFunction};
use crate::cas::Cas;
use bytes::Bytes;
use changes::Change;
use decode::ReferenceError;
use disk::{Bounds, Disk};
use entry::{Entry, Key};
use hot::Hot;
use limits::{ENCODED_BYTES_MAX, REFERENCES_MAX, USE_RESOLUTION, WAITING_BYTES_MAX};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use writer::{Shared, State};

/// The file's name in the state directory.
pub const FILE_NAME: &str = "action-cache.redb";

/// How much the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionCacheOptions {
    /// Entries of all tenants together, beyond which the least recently used go.
    pub entries_max: u64,
    /// Bytes of their results and references on disk, likewise. The file is up to twice as large.
    pub size_bytes_max: u64,
    /// Bytes of those that are kept in memory.
    pub hot_bytes_max: u64,
}

impl Default for ActionCacheOptions {
    /// A million results of usual size; the ten thousand that were used last in memory.
    fn default() -> Self {
        ActionCacheOptions { entries_max: 1 << 20, size_bytes_max: 1 << 30, hot_bytes_max: 16 << 20 }
    }
}

/// What happened since the cache was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Results that were served.
    pub hits: u64,
    /// Actions that there was no result for; with `incomplete`.
    pub misses: u64,
    /// Results that were removed since a blob was gone.
    pub incomplete: u64,
    /// Entries that went since there was no room.
    pub evicted: u64,
    /// Changes that did not reach the disk.
    pub dropped: u64,
}

/// The cache. Clones share it. When the last goes, what was put is still written, but nobody waits for it:
/// [`ActionCache::close`] does.
#[derive(Clone, Debug)]
pub struct ActionCache {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    cas: Cas,
    use_resolution: u64,
    hits: AtomicU64,
    misses: AtomicU64,
    incomplete: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl ActionCache {
    /// Opens the cache in a state directory, or makes it there.
    ///
    /// # Errors
    /// [`CacheError::InUse`]; [`CacheError::Store`] if the directory or the disk does not allow it. A damaged file is
    /// no error: it is moved aside with a warning.
    pub fn open(dir: &Path, cas: Cas, options: &ActionCacheOptions) -> Result<ActionCache, CacheError> {
        let path = dir.join(FILE_NAME);
        let bounds = Bounds { entries_max: options.entries_max, size_bytes_max: options.size_bytes_max };
        let (disk, next) = Disk::open(&path, bounds)?;
        let shared = Arc::new(Shared::new(disk, next, Hot::new(options.hot_bytes_max)));
        let of_writer = shared.clone();
        let writer = std::thread::Builder::new()
            .name("action-cache".to_owned())
            .spawn(move || of_writer.write_changes())
            .map_err(|error| CacheError::Store {
                what: "start a thread for",
                path,
                why: error.to_string(),
            })?;
        let handle = Handle {
            shared,
            cas,
            use_resolution: options.entries_max / USE_RESOLUTION,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            incomplete: AtomicU64::new(0),
            writer: Mutex::new(Some(writer)),
        };
        Ok(ActionCache { handle: Arc::new(handle) })
    }

    /// The result of an action, if there is one and every blob that it needs is in the store. May read the disk.
    ///
    /// # Errors
    /// [`CacheError::Store`], which a caller may take for a miss.
    pub fn get(&self, tenant: &str, action: &Digest) -> Result<Option<CachedResult>, CacheError> {
        let handle = &*self.handle;
        let key = Key::new(tenant, action);
        let Some(entry) = self.find(&key, action)? else {
            handle.misses.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let missing = handle.cas.missing(entry.result.references.iter().copied());
        if missing.is_empty() {
            handle.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Some(entry.result.clone()));
        }
        let first = missing[0];
        tracing::debug!(
            "the result of {action} is dropped: {} blobs are gone, such as {first}",
            missing.len()
        );
        handle.misses.fetch_add(1, Ordering::Relaxed);
        handle.incomplete.fetch_add(1, Ordering::Relaxed);
        self.forget(&key, entry.stamp);
        Ok(None)
    }

    /// The blobs that a result needs, also those within its trees, which are read from the store.
    ///
    /// # Errors
    /// [`ReferenceError`]: such a result is not to be cached.
    pub fn references(
        &self,
        function: DigestFunction,
        encoded: &[u8],
    ) -> Result<Vec<Digest>, ReferenceError> {
        decode::references(&self.handle.cas, function, encoded)
    }

    /// Keeps the result of an action, over an earlier one. Does not wait for the disk.
    ///
    /// # Errors
    /// [`CacheError::TooLarge`], [`CacheError::MixedFunctions`].
    pub fn put(
        &self,
        tenant: &str,
        action: &Digest,
        encoded: Bytes,
        mut references: Vec<Digest>,
    ) -> Result<(), CacheError> {
        let empty = Digest::empty(action.function);
        references.sort_unstable();
        references.dedup();
        references.retain(|reference| *reference != empty);
        if encoded.len() > ENCODED_BYTES_MAX || references.len() > REFERENCES_MAX {
            let (encoded_bytes, references) = (encoded.len(), references.len());
            return Err(CacheError::TooLarge { encoded_bytes, references });
        }
        if let Some(other) = references.iter().find(|reference| reference.function != action.function) {
            let (action, reference) = (action.function.name(), other.function.name());
            return Err(CacheError::MixedFunctions { action, reference });
        }
        let key = Key::new(tenant, action);
        let result = CachedResult { encoded, references: references.into() };
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        let stamp = state.number();
        let entry = Arc::new(Entry { stamp, result });
        let change = Change::Put { entry: entry.clone(), used: stamp };
        if !state.waiting.add(key, change, WAITING_BYTES_MAX) {
            state.dropped += 1;
        }
        state.hot.insert(key, entry, stamp, stamp);
        shared.wake(&state);
        Ok(())
    }

    /// Waits until all that was put is on disk.
    ///
    /// # Errors
    /// [`CacheError::Store`]: some of it is not, and will not be.
    pub fn flush(&self) -> Result<(), CacheError> {
        self.handle.shared.flush()
    }

    /// Writes all that was put, and closes the file. The cache goes on in memory, for those who still have a clone.
    ///
    /// # Errors
    /// [`CacheError::Store`]: some of it was not written.
    pub fn close(&self) -> Result<(), CacheError> {
        let flushed = self.flush();
        self.handle.shared.end();
        let writer = self.handle.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the writer of the action cache panicked");
        }
        flushed
    }

    /// What happened since the cache was opened.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let handle = &*self.handle;
        let (evicted, dropped) = {
            let state = handle.shared.lock();
            (state.evicted, state.dropped)
        };
        CacheStats {
            hits: handle.hits.load(Ordering::Relaxed),
            misses: handle.misses.load(Ordering::Relaxed),
            incomplete: handle.incomplete.load(Ordering::Relaxed),
            evicted,
            dropped,
        }
    }

    /// Entries and bytes that are on disk.
    ///
    /// # Errors
    /// [`CacheError::Store`].
    pub fn totals(&self) -> Result<(u64, u64), CacheError> {
        self.handle.shared.disk.totals()
    }

    /// Finds an entry wherever it is, and counts that as a use.
    fn find(&self, key: &Key, action: &Digest) -> Result<Option<Arc<Entry>>, CacheError> {
        let shared = &self.handle.shared;
        let commits = {
            let mut state = shared.lock();
            let now = state.number();
            if let Some(found) = state.hot.find(key, now) {
                if found.unwritten > self.handle.use_resolution {
                    self.note_use(&mut state, key, now);
                }
                return Ok(Some(found.entry));
            }
            if let Some(known) = state.changed(key) {
                return Ok(known);
            }
            state.commits
        };
        let Some(entry) = shared.disk.read(key, action.function)?.map(Arc::new) else { return Ok(None) };
        let mut state = shared.lock();
        // What was put or removed while the disk was read is newer.
        if let Some(entry) = state.hot.get(key) {
            return Ok(Some(entry.clone()));
        }
        if let Some(known) = state.changed(key) {
            return Ok(known);
        }
        if state.commits == commits {
            let now = state.number();
            state.hot.insert(*key, entry.clone(), now, now);
            self.note_use(&mut state, key, now);
        }
        Ok(Some(entry))
    }

    fn note_use(&self, state: &mut State, key: &Key, used: u64) {
        // A use that finds no room is an error in the order of eviction, nothing else.
        if state.waiting.add(*key, Change::Use { used }, WAITING_BYTES_MAX) {
            state.hot.written(key, used);
            self.handle.shared.wake(state);
        }
    }

    /// Removes an entry, unless another was put in its place.
    fn forget(&self, key: &Key, stamp: u64) {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        if state.hot.get(key).is_some_and(|entry| entry.stamp == stamp) {
            state.hot.remove(key);
        }
        // One that finds no room is found incomplete again.
        if state.waiting.add(*key, Change::Remove { stamp }, WAITING_BYTES_MAX) {
            shared.wake(&state);
        }
    }
}

impl State {
    /// A number that no other use or put has.
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// What the changes on their way to the disk say of a key; `None` if nothing.
    fn changed(&self, key: &Key) -> Option<Option<Arc<Entry>>> {
        [&self.waiting, &*self.writing].into_iter().find_map(|changes| match changes.get(key)? {
            Change::Put { entry, .. } => Some(Some(entry.clone())),
            Change::Remove { .. } => Some(None),
            Change::Use { .. } => None,
        })
    }
}
