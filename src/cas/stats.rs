//! What the store has and did, as numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A reading of all counters; those without a time are since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CasStats {
    /// Blobs in the store now.
    pub blobs: u64,
    /// What they count for now, in whole blocks.
    pub bytes: u64,
    /// Bytes beyond which the least recently used go.
    pub bytes_max: u64,
    /// Pins held now; a blob with two counts twice.
    pub pinned: u64,
    /// Entries in memory that the next checkpoint writes.
    pub pending: u64,
    /// Blobs written from bytes that came.
    pub written: u64,
    /// Sealed files that were renamed into the store.
    pub renamed: u64,
    /// Sealed files whose blob was there already.
    pub known: u64,
    /// Sealed files that had to be copied.
    pub copied: u64,
    /// Bytes of those.
    pub bytes_copied: u64,
    /// Blobs evicted.
    pub evicted: u64,
    /// What they counted for.
    pub bytes_evicted: u64,
    /// Blobs found bad and taken out.
    pub quarantined: u64,
    /// Blobs hashed again, since a sync or the machine had failed before.
    pub verified: u64,
    /// Blobs looked at on the disk, since the store was opened.
    pub scrubbed: u64,
    /// Of those, blobs whose bytes in the kernel's cache were others than on the disk.
    pub cache_differed: u64,
    /// Checkpoints that were written.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub checkpoints_failed: u64,
    /// Files found in the places of blobs that nobody knew of, and taken for blobs to be hashed.
    pub strays: u64,
    /// Uses that were not recorded, since too many had to wait for a checkpoint.
    pub uses_forgotten: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub blobs: AtomicU64,
    pub pinned: AtomicU64,
    pub written: AtomicU64,
    pub renamed: AtomicU64,
    pub known: AtomicU64,
    pub copied: AtomicU64,
    pub bytes_copied: AtomicU64,
    pub evicted: AtomicU64,
    pub bytes_evicted: AtomicU64,
    pub quarantined: AtomicU64,
    pub verified: AtomicU64,
    pub scrubbed: AtomicU64,
    pub cache_differed: AtomicU64,
    pub checkpoints: AtomicU64,
    pub checkpoints_failed: AtomicU64,
    pub strays: AtomicU64,
    pub uses_forgotten: AtomicU64,
}

impl Counters {
    /// All but what the store keeps elsewhere.
    pub(super) fn read(&self) -> CasStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CasStats {
            blobs: get(&self.blobs),
            pinned: get(&self.pinned),
            written: get(&self.written),
            renamed: get(&self.renamed),
            known: get(&self.known),
            copied: get(&self.copied),
            bytes_copied: get(&self.bytes_copied),
            evicted: get(&self.evicted),
            bytes_evicted: get(&self.bytes_evicted),
            quarantined: get(&self.quarantined),
            verified: get(&self.verified),
            scrubbed: get(&self.scrubbed),
            cache_differed: get(&self.cache_differed),
            checkpoints: get(&self.checkpoints),
            checkpoints_failed: get(&self.checkpoints_failed),
            strays: get(&self.strays),
            uses_forgotten: get(&self.uses_forgotten),
            ..CasStats::default()
        }
    }
}
