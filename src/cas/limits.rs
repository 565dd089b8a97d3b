//! Bounds of the store, each with its reason.
//!
//! Invariant: neither memory nor the time to open grows with the number of blobs beyond these.

use std::time::Duration;

/// Records of one put log that puts may fill before they wait for a checkpoint: replaying both logs at the start is
/// then at most 2 × 65,536 stats, which take less than a second.
pub(super) const LOG_RECORDS_SOFT: u32 = 1 << 16;

/// Records beyond those, for threads that were past the check, and for removals, which make room and must not wait.
pub(super) const LOG_RECORDS_MARGIN: u32 = 1 << 13;

/// Changed entries in memory at which a checkpoint starts early.
pub(super) const PENDING_KICK: u64 = 1 << 15;

/// Changed entries in memory beyond which a mere use is no longer recorded: with what both logs can hold, 400,000
/// entries of 73 bytes, 64 MiB also while tables grow, until the next checkpoint. A blob whose use was not recorded
/// looks older than it is, which is counted.
pub(super) const PENDING_TOUCHES_MAX: u64 = 1 << 18;

/// Parts of the map in memory, each with its lock: as many as directories of blobs.
pub(super) const SHARDS: usize = 256;

/// Entries of a shard with those rows of the index that are kept so that who asks again needs no tree: what a table of
/// 512 places of 73 bytes holds. That is 37 KB a shard, and 10 MB in all for 114,688 blobs, of which three quarters may
/// be such rows: the blobs of a build or two. What must be there makes a table larger, and it shrinks afterwards.
pub(super) const SHARD_ENTRIES: usize = 448;

/// Time between checkpoints: what an unclean boot makes suspect, and so re-hashed, is at most what came in it.
pub(super) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Seconds that count as one moment of use: hot blobs change their row at most so often.
pub(super) const USE_BUCKET_SECONDS: u64 = 8;

/// How long a blob that was just found, put or read survives, unless the store is full of such: ten minutes, in which
/// a client that asked what is missing sends the rest and executes.
pub(super) const GRACE_SECONDS: u64 = 600;

/// Eviction starts when the store is fuller than this many 64ths of its size …
pub(super) const EVICT_FROM_64THS: u64 = 61;

/// … and ends below this many, so that it runs rarely.
pub(super) const EVICT_TO_64THS: u64 = 58;

/// Least that is evicted when the disk itself is full: room for the index to commit in, and for the next puts.
pub(super) const RELIEF_BYTES_MIN: u64 = 8 << 20;

/// How often in a row a full disk that has room by now costs nobody a blob.
pub(super) const SPARED_MAX: u32 = 3;

/// Blobs that one step of eviction looks at and removes with one sync of the log.
pub(super) const EVICT_BATCH: usize = 512;

/// What a blob is counted in: the block of the filesystems this runs on. A million blobs of one byte take 4 GB.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Bad blobs kept for looking at; more are removed at once.
pub(super) const QUARANTINED_MAX: usize = 64;

/// Largest bad blob that is kept.
pub(super) const QUARANTINED_BYTES_MAX: u64 = 64 << 20;

/// Directories of blobs that are looked through for strays between two checkpoints, of 512: all in five minutes, with a
/// stat for each blob.
pub(super) const SWEEP_DIRECTORIES: u32 = 8;

/// Bytes that are scrubbed between two checkpoints of a store with nothing else to do: 4 ms of hashing in 5 s, and a
/// hundred gigabytes in a day and a half.
pub(super) const SCRUB_BYTES: u64 = 4 << 20;

/// Blobs of one such step.
pub(super) const SCRUB_BATCH: usize = 64;

/// Largest blob that is scrubbed: a second of hashing, for which a checkpoint waits.
pub(super) const SCRUB_BLOB_BYTES_MAX: u64 = 256 << 20;

/// Cache of the index in memory: the upper levels of a tree with ten million rows. Leaves are in the kernel's cache, a
/// microsecond away; here they would only make the daemon grow with the number of its actions.
pub(super) const INDEX_CACHE_BYTES: usize = 8 << 20;

/// Buffer for reading a file that is hashed or copied, one a thread.
pub(super) const READ_BUFFER_BYTES: usize = 256 << 10;

/// Tries to put a blob into its place while others put and remove the same: each is a lost race against a file that
/// nobody knows.
pub(super) const PLACE_TRIES_MAX: u32 = 8;

/// What a blob of `size_bytes` counts for.
pub(super) fn charge(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}
